-- AUDIT  clock log members  ->  {epoch seq ver nonce now off}, incarnation, whether it is that of the clock, {policy,
-- used_memory, maxmemory}, type of the log, id of its first message, ids of the first two messages from the last number of
-- the clock on, the list of members as it is stored, the name of the stream of writes or nothing; reads only
-- An epoch of 0 says that the clock is missing or damaged.
local clock_key, log_key, members_key = unpack(KEYS)

local epoch, seq, ver, nonce = read_clock(clock_key)
local run = incarnation()
local stored_run, off, writes =
  unpack(checked(redis.pcall('HMGET', clock_key, 'run', 'off', 'writes'), 'HMGET') or {})
local ids, last = {}, string.format('%.0f', seq or 0)
local messages = checked(redis.pcall('XRANGE', log_key, last, '+', 'COUNT', 2), 'XRANGE')
for i, message in ipairs(messages or {}) do
  ids[i] = message[1]
end
-- Only its ends are read: all numbers in between are there, as the log is trimmed at its beginning.
local first = checked(redis.pcall('XRANGE', log_key, '-', '+', 'COUNT', 1), 'XRANGE') or {}
local memory = info_section('memory') or ''
return {
  {epoch or 0, seq or 0, ver or 0, nonce or 0, time(), off and 1 or 0},
  run,
  (run == UNNAMED or stored_run == run) and 1 or 0,
  {
    string.match(memory, 'maxmemory_policy:([%w-]+)') or '',
    string.match(memory, 'used_memory:(%d+)') or '',
    string.match(memory, 'maxmemory:(%d+)') or ''
  },
  redis.call('TYPE', log_key).ok,
  first[1] and first[1][1] or '',
  ids,
  checked(redis.pcall('HGETALL', members_key), 'HGETALL') or {},
  writes or ''
}
