-- SWITCH  clock | new_epoch off deadline  ->  the time, or nothing if it is late
-- All instances are off while the clock has the field `off`: each of them reads it with the clock.
-- A late copy would undo a later switch (rule 14).
local clock_key = KEYS[1]
local new_epoch, off, deadline = unpack(ARGV)

if has_passed(deadline) then
  return false
end
ensure_clock(clock_key, new_epoch)
if off == '1' then
  redis.call('HSET', clock_key, 'off', 1)
else
  redis.call('HDEL', clock_key, 'off')
end
return struct.pack('>I8', time())
