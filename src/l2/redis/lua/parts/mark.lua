-- The mark of a key, in the place of a hold, while a write of the key waits in the stream of writes: 'W', the id of the
-- newest write, until when a separate hold lasts, and epoch and ver of the value that was stored with the write (zeros if
-- none was). It has no TTL: ACQUIRE_LEASE grants no lease while it is there.
local function read_mark(text)
  local id, held_until, epoch, ver =
    string.match(type(text) == 'string' and text or '', '^W(%d+%-%d+):(%d+):(%d+):(%d+)$')
  return id, tonumber(held_until), tonumber(epoch), tonumber(ver)
end

local function write_mark(hold_key, id, held_until, epoch, ver)
  redis.call('SET', hold_key, 'W' .. id .. string.format(':%.0f:%.0f:%.0f', held_until, epoch, ver))
end

-- Ends a mark; a separate hold lasts on.
local function end_mark(hold_key, held_until, now)
  if held_until > now then
    redis.call('SET', hold_key, '', 'PX', held_until - now)
  else
    redis.call('DEL', hold_key)
  end
end

-- Until when a separate hold lasts, whether or not there is a mark; 0 if there is none.
local function read_held_until(hold_key)
  local stored = checked(redis.pcall('GET', hold_key), 'GET')
  local id, held_until = read_mark(stored)
  if id then
    return held_until
  end
  local left = stored == '' and redis.call('PTTL', hold_key) or 0
  return left > 0 and time() + left or 0
end
