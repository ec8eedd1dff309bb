-- SWITCH  clock | rnd off deadline  ->  the time, or nothing if it is late
-- All instances are off while the clock has the field `off`: each of them reads it with the clock.
-- A late copy would undo a later switch (rule 14).
local at = time()
if ARGV[3] ~= '' and at > tonumber(ARGV[3]) then
  return false
end
clock(KEYS[1], ARGV[1])
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'off', 1)
else
  redis.call('HDEL', KEYS[1], 'off')
end
return struct.pack('>I8', at)
