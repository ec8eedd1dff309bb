-- Begins every script that needs the lane's clock.

-- The time of this server in ms; it stands still while a script runs.
local function time()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Epoch, seq and ver of the lane, if it has a clock: three numbers in one field, as a message begins with them.
-- To read and write one field of bytes costs half as much as three of digits.
local function position(key)
  local at = redis.call('HGET', key, 'at')
  if at and #at == 24 then
    return struct.unpack('>I8I8I8', at)
  end
end

local function set_position(key, epoch, seq, ver)
  local at = struct.pack('>I8I8I8', epoch, seq, ver)
  redis.call('HSET', key, 'at', at)
  return at
end

-- The same for a lane that may have none. A clock that is missing, or damaged, starts a new epoch,
-- named by random bytes of the caller: Lua's own repeat themselves after a restart.
local function clock(key, rnd)
  local epoch, seq, ver = position(key)
  if epoch then
    return epoch, seq, ver
  end
  set_position(key, rnd, 0, 0)
  redis.call('HSET', key, 'since', string.format('%.0f', time()))
  return tonumber(rnd), 0, 0
end

-- The stamp that goes before a body: its check is the sum of the three.
local function stamp(epoch, ver, at)
  return 'LRD\1' .. struct.pack('>I8I8I8I8', epoch, ver, at, epoch + ver + at)
end

-- Orders one more write, and tells all who listen: the message has a number, under which the log keeps it.
local function publish(key, log, channel, rnd, payload)
  local epoch, seq, ver = clock(key, rnd)
  seq, ver = seq + 1, ver + 1
  local message = 'LM\1' .. set_position(key, epoch, seq, ver) .. payload
  if log then
    local id = string.format('%.0f-0', seq)
    local added = redis.pcall('XADD', log, id, 'm', message)
    if type(added) == 'table' and added.err then
      -- The log has outlived a clock: what it holds is of another epoch.
      redis.call('DEL', log)
      redis.call('XADD', log, id, 'm', message)
    end
    if seq % 100 == 0 then
      redis.call('XTRIM', log, 'MAXLEN', '~', '10000')
    end
  end
  redis.call('PUBLISH', channel, message)
  return epoch, ver, seq
end
