-- INSPECT  value lease hold clock writes  ->  {value, lease, hold}, {ms that each has left}, type of the value,
-- {epoch seq ver now off}, incarnation, whether it is that of the clock, the mark of a write that waits as
-- {id till epoch ver, whether it is in the stream}; reads only
-- An epoch of 0 says that the clock is missing or damaged.
local stored = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local left = {}
for i = 1, 3 do
  left[i] = redis.call('PTTL', KEYS[i])
end
local epoch, seq, ver = position(KEYS[4])
local run = incarnation()
local known = checked(redis.pcall('HMGET', KEYS[4], 'run', 'off'), 'HMGET') or {}
local id, till, of, written = read_mark(stored[3])
local waits = id and #(checked(redis.pcall('XRANGE', KEYS[5], id, id), 'XRANGE') or {}) > 0
return {
  stored,
  left,
  redis.call('TYPE', KEYS[1]).ok,
  {epoch or 0, seq or 0, ver or 0, time(), known[2] and 1 or 0},
  run,
  known[1] == run and 1 or 0,
  id and {id, till, of, written, waits and 1 or 0} or false
}
