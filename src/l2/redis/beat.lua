-- BEAT  clock live | nonce id forgotten  ->  nonce, in order, epoch seq now; reads only
-- Not in order: no clock, a life that it does not know, a replica, a primary cut off from the replicas
-- it must have, or an instance that is about to be forgotten as a member.
local run, info = life()
local epoch, seq = position(KEYS[1])
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'
local member = silence(redis.call('HGET', KEYS[2], ARGV[2])) <= tonumber(ARGV[3]) / 2
local ok = epoch and redis.call('HGET', KEYS[1], 'run') == run and primary and member
return {ARGV[1], ok and 1 or 0, epoch or 0, seq or 0, time()}
