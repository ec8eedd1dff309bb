-- INSERT  clock log value... lease... | channel rnd payload deadline (body ttls)...  ->  stamp, or nothing if it is late
-- After the deadline it stores nothing (rule 14).
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local values = (#KEYS - 2) / 2
for i = 1, values do
  local stamped, kept = stamp(epoch, ver, at, ARGV[4 + 2 * i])
  redis.call('SET', KEYS[2 + i], stamped .. ARGV[3 + 2 * i], 'PX', kept)
end
redis.call('DEL', unpack(KEYS, 3 + values))
return struct.pack('>I8I8I8', epoch, ver, at)
