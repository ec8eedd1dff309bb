-- What takes the place of a hold while a write of the key waits in the stream of writes: 'W', the id of the newest one, and
-- until when loads are held off besides. It has no TTL: LEAD grants no lease while it is there.
local function read_mark(v)
  local id, till = string.match(type(v) == 'string' and v or '', '^W(%d+%-%d+):(%d+)$')
  return id, tonumber(till)
end

local function write_mark(key, id, till)
  redis.call('SET', key, 'W' .. id .. ':' .. string.format('%.0f', till))
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

-- Whether an id of the stream is not above another one.
local function is_up_to(id, last)
  local ms, n = string.match(id, '^(%d+)%-(%d+)$')
  local last_ms, last_n = string.match(last, '^(%d+)%-(%d+)$')
  if ms ~= last_ms then
    return tonumber(ms) < tonumber(last_ms)
  end
  return tonumber(n) <= tonumber(last_n)
end

-- The fields of an entry of the stream. Another program may have left some out.
local function fields(entry)
  local named = {k = '', i = '', b = ''}
  for i = 1, #entry[2], 2 do
    named[entry[2][i]] = entry[2][i + 1]
  end
  return named
end

-- The number by which the writes of a key are ordered: that of a dead letter which was put back is older than its id.
local function number_of(f, id)
  return string.match(f.v or '', '^%d+%-%d+$') or id
end
