-- INSERT  clock log (value lease)... | channel rnd tail deadline (body ttl)...  ->  stamp, or nothing when late
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local epoch, ver = next_ver(KEYS[1], ARGV[2])
local stamped = stamp(epoch, ver, at)
for i = 3, #KEYS, 2 do
  redis.call('SET', KEYS[i], stamped .. ARGV[i + 2], 'PX', ARGV[i + 3])
  end_lease(KEYS[i + 1], 0)
end
publish(KEYS[1], KEYS[2], ARGV[1], epoch, ver, ARGV[3])
return {epoch, ver, at}
