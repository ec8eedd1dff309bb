-- PENDING  writes dead worker  ->  length, the first and the last id, dead letters, the last id of these, time, whether
-- there is a worker
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local dead = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local length = redis.call('XLEN', KEYS[1])
local letters = redis.call('XLEN', KEYS[2])
local worker = redis.call('EXISTS', KEYS[3])
return {length, first and first[1] or '', last and last[1] or '', letters, dead and dead[1] or '', time(), worker}
