-- A lease as it is stored: `epoch:began:token`, with the last version that the lane had issued when it was granted. A '+'
-- after it means that another load waits for its end.
local function lease(epoch, began, token)
  return string.format('%.0f:%.0f:%s', epoch, began, token)
end

-- The lease without that mark, and the mark.
local function read_lease(stored)
  return string.match(type(stored) == 'string' and stored or '', '^(.-)(%+?)$')
end

-- When a lease of the present epoch began, and its token. Nil if it is none, or if END_LEASES has ended all leases since.
local function began(clock, present, held)
  local epoch, at, token = string.match(held, '^(%d+):(%d+):(%d+)$')
  if tonumber(epoch) ~= present then
    return nil
  end
  local ended = redis.call('HGET', clock, 'leases')
  if ended and #ended == 16 then
    local of, ver = struct.unpack('>I8I8', ended)
    if of == present and tonumber(at) < ver then
      return nil
    end
  end
  return tonumber(at), token
end

-- The mark of a lease, if it is still the one of this epoch and token, and when it began. The epoch must also be the
-- present one: a restart can bring back a lease that an invalidation had deleted, and a clear deletes none (rule 1).
local function standing(key, clock, present, epoch, token)
  local held, mark = read_lease(checked(redis.pcall('GET', key), 'GET'))
  local at, of = began(clock, present, held)
  if at and present == tonumber(epoch) and of == token then
    return mark, at
  end
end

-- The answer to a fill that is not stored: the value that is.
local function rejected(key)
  local v = checked(redis.pcall('GET', key), 'GET')
  return {'REJECTED', type(v) == 'string' and v, false}
end

-- Deletes a lease, and publishes a notice if another load waits for its end. A notice has no number and may be lost.
local function end_lease(key, mark, channel, of)
  redis.call('DEL', key)
  if mark == '+' then
    send(channel, 'LE\1' .. of)
  end
end
