-- A lease as it is stored: `epoch:token`, or `epoch:period:token` once UNLEASE has begun another period in the epoch:
-- a lease of another period is none. A '+' after it means that another load waits for its end.
local function lease(clock, epoch, token)
  local prefix = string.format('%.0f:', epoch)
  local period = redis.pcall('HGET', clock, 'leases')
  if type(period) == 'string' and string.find(period, prefix, 1, true) == 1 then
    prefix = period .. ':'
  end
  return prefix .. token
end

-- The lease without that mark, and the mark.
local function read_lease(stored)
  return string.match(type(stored) == 'string' and stored or '', '^(.-)(%+?)$')
end

-- The mark of a lease, if it is still the one of this epoch and token. The epoch must also be the present one: a restart
-- can bring back a lease that an invalidation had deleted, and a clear deletes none (rule 1).
local function standing(key, clock, present, epoch, token)
  local held, mark = read_lease(redis.pcall('GET', key))
  return present == tonumber(epoch) and held == lease(clock, present, token) and mark or nil
end

-- The answer to a fill whose lease does not stand: the value that is stored.
local function rejected(key)
  local v = redis.pcall('GET', key)
  return {'REJECTED', type(v) == 'string' and v, false}
end

-- Deletes a lease, and publishes a notice if another load waits for its end. A notice has no number and may be lost.
local function end_lease(key, mark, channel, of)
  redis.call('DEL', key)
  if mark == '+' then
    redis.call('PUBLISH', channel, 'LE\1' .. of)
  end
end
