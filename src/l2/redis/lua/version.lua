-- The answer of a conditional store that stores nothing. Returns nil if KEYS[1] has the version `epoch` and `ver`, or no
-- value if these are zeros; the store goes on then. Otherwise returns the time; or 'T', the time and the tags of the stored
-- values, if these are others than `tags`, whose tag versions are KEYS[first..].
--
-- The version of a key is that of its first valid value: first comes the value with the type tag of `body`, then the others
-- as they lie, the last stored one in front. A key has no value only if it has no valid one of any type (rule 29).
local function other_version(at, clock_epoch, issued, first, epoch, ver, tags, body)
  local own, current = string.sub(body, 45, 52), {}
  for _, value in ipairs(heads(head_of, KEYS[1])) do
    local stored, expires_at = read_issued(value.head, clock_epoch, issued)
    value.tags = stored and at < expires_at and tags_of(KEYS[1], value.head, value.offset)
    if value.tags then
      value.ver = stored
      table.insert(current, string.sub(value.head, 81, 88) == own and 1 or #current + 1, value)
    end
  end
  -- The tags of all that are looked at, at once: the step is sent again once, however many values there are.
  local now = ''
  for _, value in ipairs(current) do
    now = now .. value.tags
    if value.tags == '' then
      -- It is valid, so no other one is looked at.
      break
    end
  end
  if now ~= '' and now ~= tags then
    return 'T' .. struct.pack('>I8', at) .. now
  end
  local of, stored = 0, 0
  for _, value in ipairs(current) do
    local last = first + count(value.tags, 1) - 1
    if is_valid(first, last, clock_epoch, value.ver) then
      of, stored = clock_epoch, value.ver
      break
    end
    first = last + 1
  end
  if of ~= tonumber(epoch) or stored ~= tonumber(ver) then
    return struct.pack('>I8', at)
  end
end
