-- BEAT  clock live | nonce id forgotten  ->  nonce, in order, epoch seq now; reads only
-- Not in order: no clock, a life that it does not know, a replica, a primary cut off from the replicas
-- it must have, or an instance that is about to be forgotten as a member.
local run, info = life()
local c = redis.call('HMGET', KEYS[1], 'epoch', 'seq', 'run')
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'
local member = silence(redis.call('HGET', KEYS[2], ARGV[2])) <= tonumber(ARGV[3]) / 2
local ok = c[1] and c[2] and c[3] == run and primary and member
return {ARGV[1], ok and 1 or 0, tonumber(c[1] or 0), tonumber(c[2] or 0), time()}
