-- Values where they are stored.

-- The head of the value at a place under a key; empty if there is none. A key of another type has none.
local function head_of(key, at)
  return checked(redis.pcall('GETRANGE', key, at, at + 99), 'GETRANGE') or ''
end

-- The times with which a body begins, in ms from when it was written; with their sum.
local function pack_times(stale, expires, ends, l1)
  return struct.pack('>I8I8I8I8I8', stale, expires, ends, l1, stale + expires + ends + l1)
end

-- Where the times of a value begin.
local TIMES = 36

-- Keeps a key for so many ms, or as long as it was if it has other values than that at this place.
local function keep(key, head, at, kept)
  if at == 0 and string.byte(head, 4) == 4 then
    redis.call('PEXPIRE', key, kept)
  else
    redis.call('PEXPIRE', key, kept, 'GT')
  end
end
