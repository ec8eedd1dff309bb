-- A lease, as it lies under its key: it names its epoch. A '+' after it means that somebody waits for its end.
local function lease(epoch, token)
  return string.format('%.0f:', epoch) .. token
end

-- The lease without that mark, and the mark.
local function read_lease(stored)
  return string.match(type(stored) == 'string' and stored or '', '^(.-)(%+?)$')
end

-- Tells who waits, if anyone does. That is no change: it has no number, and may be lost.
local function end_lease(key, mark, channel, of)
  redis.call('DEL', key)
  if mark == '+' then
    redis.call('PUBLISH', channel, 'LE\1' .. of)
  end
end
