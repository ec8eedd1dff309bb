-- Orders one write: advances the clock, appends the message to the log and publishes it. The message has `new_epoch`, which
-- is random, as its nonce, and the nonce of the message before it (rule 31). In the log it has the time, too, and the further
-- fields that are given. These are for tools: instances read messages alone.
local function publish(clock_key, log_key, channel, new_epoch, payload, ...)
  local epoch, seq, ver, previous = ensure_clock(clock_key, new_epoch)
  seq, ver = seq + 1, ver + 1
  set_clock(clock_key, epoch, seq, ver, new_epoch)
  local message = 'LM\2' .. clock_numbers .. struct.pack('>I8', previous) .. payload
  if log_key then
    local id, now = string.format('%.0f-0', seq), string.format('%.0f', time())
    local added = redis.pcall('XADD', log_key, id, 'm', message, 'at', now, ...)
    if type(added) == 'table' and added.err then
      -- The log is of another type, or older than the clock: its last number is higher.
      redis.call('DEL', log_key)
      redis.call('XADD', log_key, id, 'm', message, 'at', now, ...)
    end
    if seq % 100 == 0 then
      redis.call('XTRIM', log_key, 'MAXLEN', '~', '10000')
    end
  end
  send(channel, message)
  return epoch, ver, seq
end

