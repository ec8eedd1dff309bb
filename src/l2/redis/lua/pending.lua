-- PENDING  writes dead worker clock  ->  length, the first and the last id, dead letters, the last id of these, time, whether
-- there is a worker, and of which incarnation and stream that is
local first = redis.call('XRANGE', KEYS[1], '-', latest, 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], latest, '-', 'COUNT', 1)[1]
local dead = redis.call('XREVRANGE', KEYS[2], latest, '-', 'COUNT', 1)[1]
local length = redis.call('XLEN', KEYS[1])
local letters = redis.call('XLEN', KEYS[2])
local worker = redis.call('EXISTS', KEYS[3])
local named = checked(redis.pcall('HMGET', KEYS[4], 'run', 'writes'), 'HMGET') or {}
local stream = redis.call('EXISTS', KEYS[1]) == 1 and named[2] or ''
local history = (named[1] or '') .. ' ' .. stream
return {length, first and first[1] or '', last and last[1] or '', letters, dead and dead[1] or '', time(), worker, history}
