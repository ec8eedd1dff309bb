-- CLEAR  clock | channel rnd tail  ->  stamp
-- A new epoch makes every stored value and lease a miss, whatever their number.
clock(KEYS[1], ARGV[2])
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
local epoch, ver = publish(KEYS[1], nil, ARGV[1], ARGV[2], ARGV[3])
return {epoch, ver, time()}
