-- AUDIT  clock log live  ->  {epoch seq ver now off}, incarnation, whether it is that of the clock, {policy, used_memory,
-- maxmemory}, type of the log, id of its first message, ids of the first two messages from the last number of the clock
-- on, the list of members as it is stored, the name of the stream of writes or nothing; reads only
-- An epoch of 0 says that the clock is missing or damaged.
local epoch, seq, ver = position(KEYS[1])
local run = incarnation()
local known = checked(redis.pcall('HMGET', KEYS[1], 'run', 'off', 'writes'), 'HMGET') or {}
local ids, last = {}, string.format('%.0f', seq or 0)
local messages = checked(redis.pcall('XRANGE', KEYS[2], last, '+', 'COUNT', 2), 'XRANGE')
for i, entry in ipairs(messages or {}) do
  ids[i] = entry[1]
end
-- Only its ends are read: all numbers in between are there, as the log is trimmed at its beginning.
local first = checked(redis.pcall('XRANGE', KEYS[2], '-', '+', 'COUNT', 1), 'XRANGE') or {}
local memory = redis.call('INFO', 'memory')
return {
  {epoch or 0, seq or 0, ver or 0, time(), known[2] and 1 or 0},
  run,
  known[1] == run and 1 or 0,
  {
    string.match(memory, 'maxmemory_policy:([%w-]+)') or '',
    string.match(memory, 'used_memory:(%d+)') or '',
    string.match(memory, 'maxmemory:(%d+)') or ''
  },
  redis.call('TYPE', KEYS[2]).ok,
  first[1] and first[1][1] or '',
  ids,
  checked(redis.pcall('HGETALL', KEYS[3]), 'HGETALL') or {},
  known[3] or ''
}
