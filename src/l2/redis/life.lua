-- The name of this life of the data: the server's process, and the history of writes that it replicates (rule 13).
-- Also returns INFO.
local function life()
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  return string.match(info, 'run_id:(%x+)') .. ':' .. string.match(info, 'master_replid:(%x+)'), info
end
