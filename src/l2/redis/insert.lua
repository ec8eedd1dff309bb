-- INSERT  clock log value... lease... marker... | channel rnd payload deadline (body ttls)...
--   ->  stamp, or nothing if it is late
-- The markers are those of the tags of the first value, then of the second, and so on. After the deadline it stores
-- nothing (rule 14).
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local values = (#ARGV - 4) / 2
local marker = 3 + 2 * values
for i = 1, values do
  local stamped, kept = stamp(epoch, ver, at, ARGV[4 + 2 * i])
  redis.call('SET', KEYS[2 + i], stamped .. ARGV[3 + 2 * i], 'PX', kept)
  if marker <= #KEYS then
    local last = marker + count_tags(ARGV[3 + 2 * i]) - 1
    keep_markers(invalidated(KEYS[1], marker, last, epoch, ver), epoch, kept)
    marker = last + 1
  end
end
redis.call('DEL', unpack(KEYS, 3 + values, 2 + 2 * values))
return struct.pack('>I8I8I8', epoch, ver, at)
