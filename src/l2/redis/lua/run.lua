-- RUN  clock live | partitions rnd proof [id entry]
--   ->  epoch seq ver now partitions incarnation policy generation age off;
-- generation and age are 0 without an entry. If the clock names another number of partitions, or none, that number is all
-- that the answer says. If the numbers agree and the proof is `?`, an epoch of 0 in the answer means: another incarnation.
-- Then RUN is sent again: with a proof of the handover from the former incarnation, which the answer names if this one may
-- continue it; or with an empty one. The first request over each connection (rule 13): a server that restarted or was
-- promoted may have brought deleted values back, and lost members, so its incarnation starts a new epoch and a new
-- generation of the list. Numbers continue.
local known = checked(redis.pcall('HMGET', KEYS[1], 'run', 'partitions', 'off'), 'HMGET') or {}
local partitions = whole(known[2], 16) or 0
if partitions ~= tonumber(ARGV[1]) then
  return {0, 0, 0, 0, partitions, '', '', 0, 0, 0}
end
local run, info = incarnation()
local epoch, seq, ver = clock(KEYS[1], ARGV[2])
if known[1] ~= run then
  local continued = string.match(info, 'master_replid2:(%x+)') or ''
  local former = string.match(known[1] or '', ':(%x+)$') == continued and known[1] or ''
  if ARGV[3] == '?' then
    return {0, 0, 0, 0, partitions, former, '', 0, 0, 0}
  elseif former ~= '' and ARGV[3] == former .. ' ' .. string.match(run, ':(%x+)$') then
    -- Rule 28: the former primary follows this one, and has lost nothing by that.
    redis.call('HSET', KEYS[1], 'run', run)
    known[1] = run
  end
end
if known[1] ~= run then
  epoch = tonumber(ARGV[2])
  set_position(KEYS[1], epoch, seq, ver)
  redis.call('HSET', KEYS[1], 'run', run)
  renew_list(KEYS[2], ARGV[2])
end
local policy = string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)') or ''
local generation, age = 0, 0
if ARGV[4] then
  -- A subscriber becomes a member in the step that reads the clock (rule 16).
  generation, age = list(KEYS[2])
  if not generation then
    generation, age = renew_list(KEYS[2], ARGV[2])
  end
  redis.call('HSET', KEYS[2], ARGV[4], ARGV[5])
end
return {epoch, seq, ver, time(), partitions, run, policy, generation, age, known[3] and 1 or 0}
