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

-- Orders one more write of which nobody is told.
local function next_ver(key, rnd)
  local epoch = clock(key, rnd)
  return epoch, redis.call('HINCRBY', key, 'ver', 1)
end

-- What is stored under a lease's key.
local function lease(epoch, token)
  return string.format('%.0f:', epoch) .. token
end

-- Every other key, from this one on.
local function every_other(from)
  local keys = {}
  for i = from, #KEYS, 2 do
    keys[#keys + 1] = KEYS[i]
  end
  return keys
end

-- Ends leases, whatever holds them; for `hold` ms nobody gets others. A longer hold stays.
local function end_leases(keys, hold)
  for i, held in ipairs(redis.call('MGET', unpack(keys))) do
    local left = held == 'hold' and math.max(redis.call('PTTL', keys[i]), 0) or 0
    if hold > left then
      redis.call('SET', keys[i], 'hold', 'PX', hold)
    elseif held and left == 0 then
      redis.call('DEL', keys[i])
    end
  end
end

-- The stamp that goes before a body: its check is the sum of the three.
local function stamp(epoch, ver, at)
  return 'LRD\1' .. struct.pack('>I8I8I8I8', epoch, ver, at, epoch + ver + at)
end

-- Orders one more write, and tells all who listen: the message has a number, under which the log keeps it.
local function publish(key, log, channel, rnd, tail)
  local epoch, seq, ver = clock(key, rnd)
  seq, ver = seq + 1, ver + 1
  redis.call('HSET', key, 'seq', seq, 'ver', ver)
  local message = 'LM\1' .. struct.pack('>I8I8I8', epoch, seq, ver) .. tail
  if log then
    local id = string.format('%.0f-0', seq)
    local added = redis.pcall('XADD', log, 'MAXLEN', '~', 10000, id, 'm', message)
    if type(added) == 'table' and added.err then
      -- The log has outlived a clock: what it holds is of another epoch.
      redis.call('DEL', log)
      redis.call('XADD', log, id, 'm', message)
    end
  end
  redis.call('PUBLISH', channel, message)
  return epoch, ver, seq
end
