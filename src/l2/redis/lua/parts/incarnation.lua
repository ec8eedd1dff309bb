-- The name of this incarnation of the server: its process, and the history of writes that it replicates (rule 13). The
-- process is `-` if INFO hides it, and the history is needed. Also returns INFO.
local function incarnation()
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  local history = string.match(info, 'master_replid:(%x+)')
  if not string.find(history or '', '[^0]') then
    error({err = 'INCARNATION INFO names no history'})
  end
  return (string.match(info, 'run_id:(%x+)') or '-') .. ':' .. history, info
end

-- The history in the name of an incarnation.
local function history_of(run)
  return string.match(run, ':(%x+)$')
end
