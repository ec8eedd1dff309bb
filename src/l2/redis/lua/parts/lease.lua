-- The leases of a key are one text: one lease for each type tag (rule 29), with a space between two. A lease is
-- `epoch:granted_at:token:type_tag_hex:ends_at`, where `granted_at` is the last version that the partition had issued when
-- the lease was granted, and `ends_at` a time in ms. Behind it may come
--   +  another load waits for its end
--   &  the key may have values of other types: a fill looks for such values only then
-- The key lasts as long as the last of its leases, so a lease in the text may have ended.
local LEASE = '^(%d+):(%d+):(%d+):(%x+):(%d+)(%+?)(&?)$'
local AWAITED, VALUES_BESIDE = '+', '&'

-- The text of one lease; LEASE reads it.
local function lease_text(epoch, granted_at, token, type_tag_hex, ends_at, awaited, values_beside)
  return string.format('%s:%s:%s:%s:%.0f', epoch, granted_at, token, type_tag_hex, ends_at) .. awaited .. values_beside
end

-- What END_LEASES has stored, once it was read.
local leases_ended

-- Whether a lease is of the present epoch, and END_LEASES has not ended it.
local function stands(clock_key, present_epoch, epoch, granted_at)
  if tonumber(epoch) ~= present_epoch then
    return false
  end
  leases_ended = leases_ended or redis.call('HGET', clock_key, 'leases') or ''
  if #leases_ended == 16 then
    local ended_epoch, ended_ver = struct.unpack('>I8I8', leases_ended)
    return ended_epoch ~= present_epoch or tonumber(granted_at) >= ended_ver
  end
  return true
end
