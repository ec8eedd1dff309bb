-- INVALIDATE  clock log (value lease)... | channel rnd tail hold  ->  stamp seq
for i = 3, #KEYS, 2 do
  redis.call('DEL', KEYS[i])
  end_lease(KEYS[i + 1], tonumber(ARGV[4]))
end
local epoch, ver = next_ver(KEYS[1], ARGV[2])
local seq = publish(KEYS[1], KEYS[2], ARGV[1], epoch, ver, ARGV[3])
return {epoch, ver, time(), seq}
