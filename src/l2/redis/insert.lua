-- INSERT  clock log value lease | channel rnd tail body ttl deadline  ->  stamp, or nothing when late
local at = time()
if ARGV[6] ~= '' and at > tonumber(ARGV[6]) then
  return false
end
local epoch, ver = next_ver(KEYS[1], ARGV[2])
redis.call('SET', KEYS[3], stamp(epoch, ver, at) .. ARGV[4], 'PX', ARGV[5])
end_lease(KEYS[4], 0)
publish(KEYS[1], KEYS[2], ARGV[1], epoch, ver, ARGV[3])
return {epoch, ver, at}
