-- A new epoch makes every stored value and lease a miss, however many there are. The log is deleted as well: no instance
-- replays messages from before a clear. The clear's own message is not logged, and every hundredth message trims the
-- log, so a log that was kept could grow without bound if these were all clears.
local function start_epoch(key, log, channel, rnd, payload)
  redis.call('DEL', log)
  local _, seq, ver = clock(key, rnd)
  set_position(key, rnd, seq, ver)
  return publish(key, nil, channel, rnd, payload)
end
