-- IDENTIFY  clock members | partitions new_epoch proof history [id entry]
--   ->  epoch seq ver nonce now partitions incarnation policy generation age off;
-- generation and age are 0 without an entry. If the clock names another number of partitions, or none, that number is all
-- that the answer says. If the numbers agree and the proof is `?`, an epoch of 0 in the answer means: another incarnation.
-- Then IDENTIFY is sent again: with a proof of the handover from the former incarnation, which the answer names if this one may
-- continue it; or with an empty one. The first request over each connection (rule 13): a server that restarted or was
-- promoted may have brought deleted values back, and lost members, so its incarnation starts a new epoch and a new
-- generation of the list. Numbers continue. `history` says what the caller knows of the partition's history: an epoch whose
-- history is another one, which ends here (rule 31); or `?` if it knows nothing, so that an unnamed incarnation without a
-- live member starts a new epoch (rule 32); or nothing.
local clock_key, members_key = KEYS[1], KEYS[2]
local partitions, new_epoch, proof, history, id, entry = unpack(ARGV)
local ASK_FOR_PROOF, KNOWS_NOTHING = '?', '?'
-- How many partitions a namespace has at most.
local MAX_PARTITIONS = 16

-- An answer that names the number of partitions, and the former incarnation, alone.
local function incomplete(named, former_run)
  return {0, 0, 0, 0, 0, named, former_run, '', 0, 0, 0}
end

local stored_run, stored_partitions, off, beat =
  unpack(checked(redis.pcall('HMGET', clock_key, 'run', 'partitions', 'off', 'beat'), 'HMGET') or {})
local named = whole_number(stored_partitions, MAX_PARTITIONS) or 0
if named ~= tonumber(partitions) then
  return incomplete(named, '')
end
local run, info = incarnation()
local epoch, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
local begins_epoch = tonumber(history) == epoch
if run == UNNAMED then
  begins_epoch = begins_epoch or history == KNOWS_NOTHING and not is_alive(beat)
elseif stored_run ~= run then
  local continued_history = string.match(info, 'master_replid2:(%x+)')
  local may_continue = stored_run and continued_history and history_of(stored_run) == continued_history
  if proof == ASK_FOR_PROOF then
    return incomplete(named, may_continue and stored_run or '')
  end
  -- Rule 28: the former primary follows this one, and has lost nothing by that.
  local is_handover = may_continue and proof == stored_run .. ' ' .. history_of(run)
  begins_epoch = begins_epoch or not is_handover
  redis.call('HSET', clock_key, 'run', run)
end
if begins_epoch then
  epoch = tonumber(new_epoch)
  set_clock(clock_key, epoch, seq, ver, nonce)
  renew_list(members_key, new_epoch)
end
local policy = string.match(info_section('memory') or '', 'maxmemory_policy:([%w-]+)') or ''
local generation, age = 0, 0
if id then
  if run == UNNAMED then
    write_beat(clock_key, beat, staleness_of(id, entry))
  end
  -- A subscriber becomes a member in the step that reads the clock (rule 16).
  generation, age = read_list(members_key)
  if not generation then
    generation, age = renew_list(members_key, new_epoch)
  end
  redis.call('HSET', members_key, id, entry)
end
return {epoch, seq, ver, nonce, time(), named, run, policy, generation, age, off and 1 or 0}
