-- Values where they are stored. Offsets count from 0, as commands do.

-- The head of the value at an offset under a key; empty if there is none. A key of another type has none.
local function head_of(value_key, offset)
  return checked(redis.pcall('GETRANGE', value_key, offset, offset + 99), 'GETRANGE') or ''
end

-- The times with which a body begins, in ms from when it was written; with their sum.
local function pack_times(stale, expires, ends, l1)
  return struct.pack('>I8I8I8I8I8', stale, expires, ends, l1, stale + expires + ends + l1)
end

-- Writes the times of the value at an offset.
local function set_times(value_key, offset, times)
  redis.call('SETRANGE', value_key, offset + 36, times)
end

-- Writes stamp and times of the value at an offset. The magic stays: it says whether another value follows.
local function set_stamp_and_times(value_key, offset, stamped, times)
  redis.call('SETRANGE', value_key, offset + 4, string.sub(stamped, 5) .. times)
end

-- Sets the TTL of a key. If the key has values besides the one at this offset, only lengthens the TTL.
local function set_ttl(value_key, head, offset, ttl_ms)
  if offset == 0 and not is_followed(head) then
    redis.call('PEXPIRE', value_key, ttl_ms)
  else
    redis.call('PEXPIRE', value_key, ttl_ms, 'GT')
  end
end
