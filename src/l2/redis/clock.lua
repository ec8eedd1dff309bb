-- Begins every script that needs the lane's clock.

-- The time of this server in ms; it stands still while a script runs.
local function time()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Epoch, seq and ver of the lane. A clock that is missing, or has lost a part, starts a new epoch,
-- named by random bytes of the caller: Lua's own repeat themselves after a restart.
local function clock(key, rnd)
  local c = redis.call('HMGET', key, 'epoch', 'seq', 'ver')
  if c[1] and c[2] and c[3] then
    return tonumber(c[1]), tonumber(c[2]), tonumber(c[3])
  end
  redis.call('HSET', key, 'epoch', rnd, 'seq', 0, 'ver', 0, 'since', string.format('%.0f', time()))
  return tonumber(rnd), 0, 0
end

-- Orders one more write.
local function next_ver(key, rnd)
  local epoch = clock(key, rnd)
  return epoch, redis.call('HINCRBY', key, 'ver', 1)
end

-- What is stored under a lease's key.
local function lease(epoch, token)
  return string.format('%.0f:', epoch) .. token
end

-- Ends the lease on a key, whatever is there; for `hold` ms nobody gets another. A longer hold stays.
local function end_lease(key, hold)
  local left = redis.pcall('GET', key) == 'hold' and math.max(redis.call('PTTL', key), 0) or 0
  if hold > left then
    redis.call('SET', key, 'hold', 'PX', hold)
  elseif left == 0 then
    redis.call('DEL', key)
  end
end

-- The stamp that goes before a body: its check is the sum of the three.
local function stamp(epoch, ver, at)
  return 'LRD\1' .. struct.pack('>I8I8I8I8', epoch, ver, at, epoch + ver + at)
end

-- Numbers a message, keeps it in the log under its number, and tells it to all who listen.
local function publish(key, log, channel, epoch, ver, tail)
  local seq = redis.call('HINCRBY', key, 'seq', 1)
  local message = 'LM\1' .. struct.pack('>I8I8I8', epoch, seq, ver) .. tail
  local id = string.format('%.0f-0', seq)
  if log then
    local added = redis.pcall('XADD', log, 'MAXLEN', '~', 10000, id, 'm', message)
    if type(added) == 'table' and added.err then
      -- The log has outlived a clock: what it holds is of another epoch.
      redis.call('DEL', log)
      redis.call('XADD', log, id, 'm', message)
    end
  end
  redis.call('PUBLISH', channel, message)
  return seq
end
