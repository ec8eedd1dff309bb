-- BEAT  clock | nonce  ->  nonce, in order, epoch seq now; reads only
-- Not in order: no clock, a life that it does not know, a replica, or a primary cut off from the
-- replicas it must have.
local run, info = life()
local c = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'run')
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local ok = c[1] and c[2] and c[3] == run and string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'
return {ARGV[1], ok and 1 or 0, tonumber(c[1] or 0), tonumber(c[2] or 0), time()}
