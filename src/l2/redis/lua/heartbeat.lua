-- HEARTBEAT  clock live | id, {clock live id}..., nonce
--   ->  nonce, now, incarnation, {{in order, epoch, seq, ver, generation, off}, ...}; reads only
-- The clock of each partition, as the answer to its heartbeat (rule 8). Not in order: a missing or damaged clock, an
-- incarnation of the server that no RUN has registered, a replica, or a primary without the replicas that it must have.
-- The generation of the list of members is 0 if the instance is not in it (rule 16).
local run, info = incarnation()
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'

local function row(key, live, id)
  local epoch, seq, ver = position(key)
  local known = epoch and redis.call('HMGET', key, 'run', 'off') or {}
  local ok = known[1] == run and primary
  local generation = list(live)
  if generation and not redis.call('HGET', live, id) then
    generation = nil
  end
  return {ok and 1 or 0, epoch or 0, seq or 0, ver or 0, generation or 0, known[2] and 1 or 0}
end

local clocks = {}
for i = 1, #ARGV - 1, 3 do
  local key, live, id = ARGV[i - 2] or KEYS[1], ARGV[i - 1] or KEYS[2], ARGV[i]
  clocks[#clocks + 1] = each(#ARGV > 2, row, key, live, id) or {0, 0, 0, 0, 0, 0}
end
return {tonumber(ARGV[#ARGV]), time(), run, clocks}
