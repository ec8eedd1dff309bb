-- What a script answers that stores a value only in the place of a value with the version `epoch` and `ver`, or of none if
-- these are zeros, and finds another one under KEYS[1]: the time. Or 'T', the time and the tags of the stored value, if these
-- are others than `tags`, whose tag versions are KEYS[first..]. nil if it is that version.
--
-- It is the version of the value with the type tag of `body`; where there is no valid one, of the value that was stored last:
-- a key has no value only if it has none of any type (rule 29).
local function other_version(at, clock_epoch, issued, first, epoch, ver, tags, body)
  local function valid(head)
    local of, stored, expires_at = read_stamp(head)
    if of == clock_epoch and stored <= issued and at < expires_at then
      return of, stored
    end
  end
  local head, place = find(head_of, KEYS[1], string.sub(body, 45, 52))
  if not valid(head) then
    head, place = head_of(KEYS[1], 0), 0
  end
  local of, stored = valid(head)
  if of then
    local now = tags_of(KEYS[1], head, place)
    if now and now ~= tags then
      return 'T' .. struct.pack('>I8', at) .. now
    end
    if not now or not is_valid(first, of, stored) then
      of = nil
    end
  end
  if not of then
    of, stored = 0, 0
  end
  if of ~= tonumber(epoch) or stored ~= tonumber(ver) then
    return struct.pack('>I8', at)
  end
end
