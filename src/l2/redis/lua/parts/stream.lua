-- The last time in an id of a stream: 2^43 - 1 ms, in the year 2248. The version of a write with a later one does not fit
-- an i64. No clock gives it, so another program has written such an entry: it does not count, and goes with the next
-- entry that is added.
local LAST_TIME = '8796093022207'

-- The first entries of a stream, as many as `most`, and no more once they have `bytes` together: an answer that is longer
-- would not come in time, however often it is asked for.
local function first_entries(stream, most, bytes)
  local entries, size, from = {}, 0, '-'
  while #entries < most and size < bytes do
    local entry = redis.call('XRANGE', stream, from, LAST_TIME, 'COUNT', 1)[1]
    if not entry then
      break
    end
    entries[#entries + 1] = entry
    for _, part in ipairs(entry[2]) do
      size = size + #part
    end
    from = '(' .. entry[1]
  end
  return entries
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

-- The fields of an entry of the stream by their names: key, id of the write, body, number and error. Another program may
-- have left some out.
local function entry_fields(entry)
  local fields = {k = '', i = '', b = ''}
  for i = 1, #entry[2], 2 do
    fields[entry[2][i]] = entry[2][i + 1]
  end
  return fields
end

-- The number by which the writes of a key are ordered: that of a dead letter which was put back is older than its id.
local function number_of(fields, id)
  return string.match(fields.v or '', '^%d+%-%d+$') or id
end

-- Adds an entry to a stream, and returns its id. If another program has added one after which no id follows, or none that
-- is a time, what has such an id is removed, and ids go on above all others. Nothing that was acknowledged has such an id.
local function add_entry(stream, ...)
  local id = redis.pcall('XADD', stream, '*', ...)
  if type(id) ~= 'string' and not string.find(id.err, 'last possible ID', 1, true) then
    -- Raises the error, in a line that names the command.
    return redis.call('XADD', stream, '*', ...)
  elseif type(id) == 'string' and tonumber(string.match(id, '^%d+')) <= tonumber(LAST_TIME) then
    return id
  end
  -- The stream is made anew: from Redis 7.2 on its ids stay above an entry that was deleted.
  local entries = redis.call('XRANGE', stream, '-', LAST_TIME)
  redis.call('DEL', stream)
  for _, entry in ipairs(entries) do
    redis.call('XADD', stream, entry[1], unpack(entry[2]))
  end
  -- Above what was settled before, too.
  local next_id = string.format('%.0f-1', time() + 1)
  if entries[1] and is_up_to(next_id, entries[#entries][1]) then
    next_id = '*'
  end
  return redis.call('XADD', stream, next_id, ...)
end

-- Adds a write. The stream gets a name of its own when it begins: so a flush notices that it was lost, also if it is there
-- again.
local function add_write(writes_key, clock_key, name, ...)
  if redis.call('EXISTS', writes_key) == 0 then
    redis.call('HSET', clock_key, 'writes', name)
  end
  return add_entry(writes_key, ...)
end
