-- INSERT  clock log value... lease... tag_version... staged... | channel rnd payload deadline (body px)...
--   ->  stamp, or nothing if it is late
-- The first tag versions are those of the first value, then come those of the second, and so on. After the deadline it
-- stores nothing (rule 14).
local at = time()
local keys, args, values = KEYS, ARGV, (#ARGV - 4) / 2
local first_tag, staged = 3 + 2 * values, #keys + 1
-- Mostly no value has tags or is staged, so that the keys end with the leases. Then no body is looked at.
local are_plain = first_tag == staged
if not are_plain then
  for i = 1, values do
    staged = staged - (is_staged(args[3 + 2 * i]) and 1 or 0)
  end
end
if args[4] ~= '' and at > tonumber(args[4]) or not are_staged(staged) then
  drop_staged(staged)
  return false
end
local epoch, ver = publish(keys[1], keys[2], args[1], args[2], args[3])
local tags_end, stamped = staged, stamp(epoch, ver, at)
for i = 1, values do
  local body, px = args[3 + 2 * i], args[4 + 2 * i]
  if are_plain or not is_staged(body) then
    redis.call('SET', keys[2 + i], stamped .. body, 'PX', px)
  else
    put_staged(keys[2 + i], stamped, staged)
    staged = staged + 1
  end
  if first_tag < tags_end then
    local last = first_tag + count_tags(body) - 1
    keep_tag_versions(invalidated(keys[1], first_tag, last, epoch, ver), epoch, px)
    first_tag = last + 1
  end
end
redis.call('DEL', unpack(keys, 3 + values, 2 + 2 * values))
return struct.pack('>I8I8I8', epoch, ver, at)
