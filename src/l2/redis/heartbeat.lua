-- HEARTBEAT  clock | nonce  ->  nonce, in order, epoch seq ver now life; reads only
-- The lane's clock, as the answer to a heartbeat (rule 8). Not in order: a missing or damaged clock, a life of the
-- server that no RUN has registered, a replica, or a primary without the replicas that it must have.
local run, info = life()
local epoch, seq, ver = position(KEYS[1])
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'
local ok = epoch and redis.call('HGET', KEYS[1], 'run') == run and primary
return {tonumber(ARGV[1]), ok and 1 or 0, epoch or 0, seq or 0, ver or 0, time(), run}
