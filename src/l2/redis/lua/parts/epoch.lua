-- A new epoch makes every stored value and lease a miss, however many there are. The log is deleted as well: no instance
-- replays messages from before a clear. The clear's own message is not logged, and every hundredth message trims the
-- log, so a log that was kept could grow without bound if these were all clears.
local function start_epoch(clock_key, log_key, channel, new_epoch, payload)
  redis.call('DEL', log_key)
  local _, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
  set_clock(clock_key, new_epoch, seq, ver, nonce)
  return publish(clock_key, nil, channel, new_epoch, payload)
end
