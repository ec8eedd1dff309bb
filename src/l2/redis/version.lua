-- What a script answers that stores a value only in the place of one with the version `epoch` and `ver`, or of none if these
-- are zeros, and finds another one under KEYS[1]: the time. Or 'T', the time and the tags of the stored value, if these are
-- others than `tags`, whose tag versions are KEYS[first..]. nil if it is that version.
local function other_version(at, clock_epoch, issued, first, epoch, ver, tags)
  local head = head_of(KEYS[1])
  local of, stored, expires_at = read_stamp(head)
  if of ~= clock_epoch or stored > issued or at >= expires_at then
    of, stored = 0, 0
  else
    local now = tags_of(KEYS[1], head)
    if now and now ~= tags then
      return 'T' .. struct.pack('>I8', at) .. now
    end
    if not now or not is_valid(first, of, stored) then
      of, stored = 0, 0
    end
  end
  if of ~= tonumber(epoch) or stored ~= tonumber(ver) then
    return struct.pack('>I8', at)
  end
end
