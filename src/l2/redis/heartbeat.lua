-- HEARTBEAT  clock... | nonce  ->  nonce, now, life, {{in order, epoch, seq, ver}, ...}; reads only
-- The clock of each lane, as the answer to its heartbeat (rule 8). Not in order: a missing or damaged clock, a life of the
-- server that no RUN has registered, a replica, or a primary without the replicas that it must have.
local run, info = life()
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'
local clocks = {}
for i, key in ipairs(KEYS) do
  local epoch, seq, ver = position(key)
  local ok = epoch and redis.call('HGET', key, 'run') == run and primary
  clocks[i] = {ok and 1 or 0, epoch or 0, seq or 0, ver or 0}
end
return {tonumber(ARGV[1]), time(), run, clocks}
