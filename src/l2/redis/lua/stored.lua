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

-- Sets the TTL of a key to `px` ms. If the key has values besides the one at this place, only lengthens the TTL.
local function keep(key, head, at, px)
  if at == 0 and string.byte(head, 4) == 4 then
    redis.call('PEXPIRE', key, px)
  else
    redis.call('PEXPIRE', key, px, 'GT')
  end
end
