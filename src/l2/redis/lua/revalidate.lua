-- REVALIDATE  value lease clock tag_version...
--   | token lease_epoch stored_ver times ttl_ms new_epoch channel key_text type_tag
--   ->  OK - clock | REJECTED values - | ABSENT - -
-- As FILL, with the value that is stored already: if it still has the version `stored_ver`, it gets a new stamp.
local value_key, lease_key, clock_key = KEYS[1], KEYS[2], KEYS[3]
local token, lease_epoch, stored_ver, times, ttl_ms, new_epoch, channel, key_text, type_tag = unpack(ARGV)
local FIRST_TAG = 4

local epoch, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
local leases = checked(redis.pcall('GET', lease_key), 'GET')
local granted_at, awaited, _, others = find_standing_lease(leases, clock_key, epoch, lease_epoch, token)
if not granted_at then
  return {rejected(value_key)}
end
local head, offset = find_value(head_of, value_key, type_tag)
if read_issued(head, epoch, ver) ~= tonumber(stored_ver) then
  return {'ABSENT', false, false}
end
local tags = last_invalidations(clock_key, FIRST_TAG, #KEYS, epoch, ver)
if any_after(tags, granted_at) then
  end_lease(lease_key, awaited, others, channel, key_text)
  return {rejected(value_key)}
end
local now = time()
ver = ver + 1
set_clock(clock_key, epoch, seq, ver, nonce)
set_stamp_and_times(value_key, offset, stamp(epoch, ver, now), times)
set_ttl(value_key, head, offset, ttl_ms)
keep_tag_versions(tags, epoch, ttl_ms)
end_lease(lease_key, awaited, others, channel, key_text)
return {'OK', false, clock_answer()}
