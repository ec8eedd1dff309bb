-- A lease as it is stored: `epoch:token`. A '+' after it means that another load waits for its end.
local function lease(epoch, token)
  return string.format('%.0f:', epoch) .. token
end

-- The lease without that mark, and the mark.
local function read_lease(stored)
  return string.match(type(stored) == 'string' and stored or '', '^(.-)(%+?)$')
end

-- Deletes a lease, and publishes a notice if another load waits for its end. A notice has no number and may be lost.
local function end_lease(key, mark, channel, of)
  redis.call('DEL', key)
  if mark == '+' then
    redis.call('PUBLISH', channel, 'LE\1' .. of)
  end
end
