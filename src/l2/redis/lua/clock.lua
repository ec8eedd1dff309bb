-- Every script that reads or advances the partition's clock begins with this part.

-- The server's time in ms, the same throughout a script: that of Redis 7.0 goes on while the script runs.
local server_time
local function time()
  if not server_time then
    local t = redis.call('TIME')
    server_time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return server_time
end

-- Raises the error for a partition that is not used any more. It names the present number of partitions (rule 27).
local function refuse_partition(partitions)
  error({err = 'PARTITIONS ' .. partitions .. ' partitions is the number that this namespace has now'})
end

-- Epoch, seq and ver of the partition, or nil if the clock is missing or damaged: Lua counts whole numbers without gaps
-- below 2^53. The three share one field, in the layout in which a message begins: one field of bytes costs half as much to
-- read and write as three of digits. A tombstone has a text in their place, so that it costs no other step anything.
local function position(key)
  local at = checked(redis.pcall('HGET', key, 'at'), 'HGET')
  if type(at) ~= 'string' then
    return nil
  end
  if #at == 24 then
    local epoch, seq, ver = struct.unpack('>I8I8I8', at)
    if epoch > 0 and epoch < 2 ^ 53 and seq < 2 ^ 53 and ver < 2 ^ 53 then
      return epoch, seq, ver
    end
  end
  local partitions = string.match(at, '^PARTITIONS (%d+)$')
  if partitions then
    refuse_partition(partitions)
  end
end

local function set_position(key, epoch, seq, ver)
  local at = struct.pack('>I8I8I8', epoch, seq, ver)
  redis.call('HSET', key, 'at', at)
  return at
end

-- As position(), but a missing or damaged clock starts a new epoch. The epoch is a random number from the caller:
-- Lua's own generator repeats itself after a restart.
local function clock(key, rnd)
  local epoch, seq, ver = position(key)
  if epoch then
    return epoch, seq, ver
  end
  if redis.call('TYPE', key).ok ~= 'hash' then
    redis.call('DEL', key)
  end
  set_position(key, rnd, 0, 0)
  return tonumber(rnd), 0, 0
end

-- Orders one write: advances the clock, appends the message to the log and publishes it. In the log it has the time, too,
-- and the further fields that are given. These are for tools: instances read messages alone.
local function publish(key, log, channel, rnd, payload, ...)
  local epoch, seq, ver = clock(key, rnd)
  seq, ver = seq + 1, ver + 1
  local message = 'LM\1' .. set_position(key, epoch, seq, ver) .. payload
  if log then
    local id, at = string.format('%.0f-0', seq), string.format('%.0f', time())
    local added = redis.pcall('XADD', log, id, 'm', message, 'at', at, ...)
    if type(added) == 'table' and added.err then
      -- The log is of another type, or older than the clock: its last number is higher.
      redis.call('DEL', log)
      redis.call('XADD', log, id, 'm', message, 'at', at, ...)
    end
    if seq % 100 == 0 then
      redis.call('XTRIM', log, 'MAXLEN', '~', '10000')
    end
  end
  send(channel, message)
  return epoch, ver, seq
end
