-- INSERT  clock log (value lease)... | channel rnd tail deadline (body ttl)...  ->  stamp, or nothing when late
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local stamped = stamp(epoch, ver, at)
for i = 3, #KEYS, 2 do
  redis.call('SET', KEYS[i], stamped .. ARGV[i + 2], 'PX', ARGV[i + 3])
end
end_leases(every_other(4), 0)
return {epoch, ver, at}
