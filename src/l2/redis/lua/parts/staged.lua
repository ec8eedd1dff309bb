-- Lua hashes each string that it is given, so a large body does not pass through a script. The caller stores it under a
-- name of its own first, with room for its stamp and with the TTL that it is to have. The caller sends the number of tags
-- instead of the body; the number is shorter than any body. The script then adds the stamp, and renames the staged key.
-- Each copy of a request has names of its own: without its staged bodies a late copy changes nothing.
local SHORTEST_BODY = 64

local function is_staged(body)
  return #body < SHORTEST_BODY
end

-- Whether all bodies are there that are staged under KEYS[first..].
local function are_staged(first)
  return first > #KEYS or redis.call('EXISTS', unpack(KEYS, first)) == #KEYS - first + 1
end

-- Deletes the bodies under KEYS[first..], which the script does not store.
local function drop_staged(first)
  if first <= #KEYS then
    redis.call('DEL', unpack(KEYS, first))
  end
end

-- Stores a value whose body is staged under KEYS[staged].
local function put_staged(value_key, value_stamp, staged)
  redis.call('SETRANGE', KEYS[staged], 0, value_stamp)
  redis.call('RENAME', KEYS[staged], value_key)
end
