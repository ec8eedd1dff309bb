-- The mark of a key, in the place of a hold, while a write of the key waits in the stream of writes: 'W', the id of the
-- newest write, the end of a separate hold, and epoch and ver of the value that was stored with the write (zeros if none
-- was). It has no TTL: ACQUIRE_LEASE grants no lease while it is there.
local function read_mark(v)
  local id, till, epoch, ver = string.match(type(v) == 'string' and v or '', '^W(%d+%-%d+):(%d+):(%d+):(%d+)$')
  return id, tonumber(till), tonumber(epoch), tonumber(ver)
end

local function write_mark(key, id, till, epoch, ver)
  redis.call('SET', key, 'W' .. id .. string.format(':%.0f:%.0f:%.0f', till, epoch, ver))
end

-- Ends a mark; what else holds loads off lasts on.
local function end_mark(key, till, at)
  if till > at then
    redis.call('SET', key, '', 'PX', till - at)
  else
    redis.call('DEL', key)
  end
end

-- Until when a key is held, whatever else stands there; 0 if it is not.
local function held_till(key, at)
  local now = checked(redis.pcall('GET', key), 'GET')
  local id, till = read_mark(now)
  if id then
    return till
  end
  local left = now == '' and redis.call('PTTL', key) or 0
  return left > 0 and at + left or 0
end
