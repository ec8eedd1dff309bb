-- How many tags a value may have.
local MAX_TAGS = 128

-- How many tags there are from a place in a text to its end; nil if they are damaged.
local function count_tags(text, from)
  local tags = 0
  while from < #text and tags < MAX_TAGS do
    from = from + 2 + struct.unpack('>I2', text, from)
    tags = tags + 1
  end
  return from == #text + 1 and tags or nil
end

-- The tags of a stored value, as they follow its payload; nil if they are damaged.
local function stored_tags(value_key, head, offset)
  -- See `layout.lua`.
  local length, end_offset = struct.unpack('>I2', head, 79), offset + length_of(head)
  local tags = length == 0 and '' or redis.call('GETRANGE', value_key, end_offset - length, end_offset - 1)
  return count_tags(tags, 1) and tags
end

-- How many tag versions follow in KEYS for a body. In the place of a body that is staged, the caller sends the number.
local function count_body_tags(body)
  if is_staged(body) then
    return tonumber(body)
  end
  -- Behind the times of the body: see `layout.lua`.
  local length = struct.unpack('>I2', body, 43)
  return count_tags(body, #body - length + 1)
end
