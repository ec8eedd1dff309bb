-- INSPECT  value lease hold clock writes  ->  {value, lease, hold}, {ms that each has left}, type of the value,
-- {epoch seq ver nonce now off}, incarnation, whether it is that of the clock, the mark of a write that waits as
-- {id held_until epoch ver, whether it is in the stream}; reads only
-- An epoch of 0 says that the clock is missing or damaged.
local value_key, lease_key, hold_key, clock_key, writes_key = unpack(KEYS)

local stored = redis.call('MGET', value_key, lease_key, hold_key)
local left = {}
for i = 1, 3 do
  left[i] = redis.call('PTTL', KEYS[i])
end
local epoch, seq, ver, nonce = read_clock(clock_key)
local run = incarnation()
local stored_run, off = unpack(checked(redis.pcall('HMGET', clock_key, 'run', 'off'), 'HMGET') or {})
local id, held_until, written_epoch, written_ver = read_mark(stored[3])
local waits = id and #(checked(redis.pcall('XRANGE', writes_key, id, id), 'XRANGE') or {}) > 0
return {
  stored,
  left,
  redis.call('TYPE', value_key).ok,
  {epoch or 0, seq or 0, ver or 0, nonce or 0, time(), off and 1 or 0},
  run,
  (run == UNNAMED or stored_run == run) and 1 or 0,
  id and {id, held_until, written_epoch, written_ver, waits and 1 or 0} or false
}
