-- INSERT  clock log value... lease... tag_version... staged... | channel rnd payload deadline (body kept)...
--   ->  stamp, or nothing if it is late
-- The first tag versions are those of the first value, then come those of the second, and so on. After the deadline it
-- stores nothing (rule 14).
local at = time()
local values = (#ARGV - 4) / 2
local staged = #KEYS + 1
for i = 1, values do
  staged = staged - (is_staged(ARGV[3 + 2 * i]) and 1 or 0)
end
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) or not are_staged(staged) then
  drop_staged(staged)
  return false
end
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local first_tag, tags_end, stamped = 3 + 2 * values, staged, stamp(epoch, ver, at)
for i = 1, values do
  local body, kept = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
  put(KEYS[2 + i], stamped, body, kept, staged)
  if is_staged(body) then
    staged = staged + 1
  end
  if first_tag < tags_end then
    local last = first_tag + count_tags(body) - 1
    keep_tag_versions(invalidated(KEYS[1], first_tag, last, epoch, ver), epoch, kept)
    first_tag = last + 1
  end
end
redis.call('DEL', unpack(KEYS, 3 + values, 2 + 2 * values))
return struct.pack('>I8I8I8', epoch, ver, at)
