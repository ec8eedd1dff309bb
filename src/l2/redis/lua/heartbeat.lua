-- HEARTBEAT  clock members | id, {clock members id}..., question
--   ->  question, now, incarnation, {{in order, epoch, seq, ver, last nonce, generation, off}, ...}; writes in an unnamed
--   incarnation alone
-- The clock of each partition, as the answer to its heartbeat (rule 8). Not in order: a missing or damaged clock, an
-- incarnation of the server that no IDENTIFY has registered, a replica, or a primary without the replicas that it must have.
-- The generation of the list of members is 0 if the instance is not in it (rule 16).
local question, are_several = ARGV[#ARGV], #ARGV > 2

local run, info = incarnation()
local replicas = string.match(info, 'min_slaves_good_slaves:(%d+)')
local is_primary = string.match(info, 'role:(%a+)') == 'master' and replicas ~= '0'

local function answer(clock_key, members_key, id)
  local epoch, seq, ver, last_nonce = read_clock(clock_key)
  local stored_run, off, beat = unpack(epoch and redis.call('HMGET', clock_key, 'run', 'off', 'beat') or {})
  local in_order = stored_run == run and is_primary
  local generation = read_list(members_key)
  local entry = generation and redis.call('HGET', members_key, id)
  if not entry then
    generation = nil
  end
  if epoch and run == UNNAMED then
    write_beat(clock_key, beat, entry and staleness_of(id, entry) or 0)
    in_order = true
  end
  return {in_order and 1 or 0, epoch or 0, seq or 0, ver or 0, last_nonce or 0, generation or 0, off and 1 or 0}
end

local answers = {}
-- The first partition has its names among the keys, the others among the arguments, as they may be of other slots.
for i = 1, #ARGV - 1, 3 do
  local clock_key, members_key, id = ARGV[i - 2] or KEYS[1], ARGV[i - 1] or KEYS[2], ARGV[i]
  answers[#answers + 1] = for_partition(are_several, answer, clock_key, members_key, id) or {0, 0, 0, 0, 0, 0, 0}
end
return {tonumber(question), time(), run, answers}
