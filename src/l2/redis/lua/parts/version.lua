-- The answer of a conditional store that stores nothing. Returns nil if the key has the expected version, or no value if
-- that is zeros; the store goes on then. Otherwise returns the time; or 'T', the time and the tags of the stored values, if
-- these are not `known_tags`, whose tag versions are KEYS[first_tag..].
--
-- The version of a key is that of its first valid value: first comes the value with the type tag of `body`, then the others
-- as they lie, the last stored one in front. A key has no value only if it has no valid one of any type (rule 29).
local function other_version(value_key, epoch, issued, first_tag, expected_epoch, expected_ver, known_tags, body)
  -- Where a body has its type tag: see `layout.lua`.
  local now, type_tag, current = time(), string.sub(body, 45, 52), {}
  for _, value in ipairs(heads(head_of, value_key)) do
    local ver, expires_at = read_issued(value.head, epoch, issued)
    value.tags = ver and now < expires_at and stored_tags(value_key, value.head, value.offset)
    if value.tags then
      value.ver = ver
      table.insert(current, type_tag_of(value.head) == type_tag and 1 or #current + 1, value)
    end
  end
  -- The tags of all that are looked at, at once: the step is sent again once, however many values there are.
  local tags = ''
  for _, value in ipairs(current) do
    tags = tags .. value.tags
    if value.tags == '' then
      -- It is valid, so no other one is looked at.
      break
    end
  end
  if tags ~= '' and tags ~= known_tags then
    return 'T' .. struct.pack('>I8', now) .. tags
  end
  local present_epoch, present_ver = 0, 0
  for _, value in ipairs(current) do
    local last_tag = first_tag + count_tags(value.tags, 1) - 1
    if is_valid(first_tag, last_tag, epoch, value.ver) then
      present_epoch, present_ver = epoch, value.ver
      break
    end
    first_tag = last_tag + 1
  end
  if present_epoch ~= tonumber(expected_epoch) or present_ver ~= tonumber(expected_ver) then
    return struct.pack('>I8', now)
  end
end
