-- PENDING  writes dead worker clock
--   ->  length, the first and the last id, dead letters, the last id of these, time, whether there is a worker, and of
--   which incarnation and stream that is
local writes_key, dead_key, worker_key, clock_key = unpack(KEYS)

local function id_of(entry)
  return entry and entry[1] or ''
end

local first = redis.call('XRANGE', writes_key, '-', LAST_TIME, 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', writes_key, LAST_TIME, '-', 'COUNT', 1)[1]
local last_dead = redis.call('XREVRANGE', dead_key, LAST_TIME, '-', 'COUNT', 1)[1]
local length = redis.call('XLEN', writes_key)
local dead = redis.call('XLEN', dead_key)
local worker = redis.call('EXISTS', worker_key)
local run, name = unpack(checked(redis.pcall('HMGET', clock_key, 'run', 'writes'), 'HMGET') or {})
local stream = redis.call('EXISTS', writes_key) == 1 and name or ''
local history = (run or '') .. ' ' .. stream
return {length, id_of(first), id_of(last), dead, id_of(last_dead), time(), worker, history}
