-- The name of an incarnation whose server does not say which one it is: its history is known by its data alone (rule 32).
local UNNAMED = 'unnamed'

-- A section of INFO; nil if scripts may not call INFO on this server. A user without the right to INFO is a mistake, and an
-- error: the server would answer others.
local function info_section(section)
  local answer = redis.pcall('INFO', section)
  if type(answer) ~= 'table' then
    return answer
  end
  for _, refusal in ipairs({'NOPERM', 'ACL failure', "script can't run"}) do
    if string.find(answer.err, refusal, 1, true) then
      error({err = answer.err .. ' (INFO)'})
    end
  end
end

-- The name of this incarnation of the server: its process, and the history of writes that it replicates (rule 13); or
-- UNNAMED, if it names no history. The process is `-` if INFO hides it. Also returns INFO.
local function incarnation()
  local info = (info_section('server') or '') .. (info_section('replication') or '')
  local history = string.match(info, 'master_replid:(%x+)')
  if not string.find(history or '', '[^0]') then
    return UNNAMED, info
  end
  return (string.match(info, 'run_id:(%x+)') or '-') .. ':' .. history, info
end

-- The history in the name of an incarnation.
local function history_of(run)
  return string.match(run, ':(%x+)$')
end
