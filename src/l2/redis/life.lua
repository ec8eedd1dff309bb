-- What tells one life of the data from another: the process, and the history that it replicates.
local function life()
  local info = redis.call('INFO', 'server') .. redis.call('INFO', 'replication')
  return string.match(info, 'run_id:(%x+)') .. ':' .. string.match(info, 'master_replid:(%x+)'), info
end
