-- SWITCH  clock | rnd off
-- All instances are off while the clock has the field `off`: each of them reads it with the clock.
clock(KEYS[1], ARGV[1])
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'off', 1)
else
  redis.call('HDEL', KEYS[1], 'off')
end
return 1
