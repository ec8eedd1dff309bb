-- TOUCH  value clock log tag_version...
--   | channel new_epoch payload new_times fallback_ms extends deadline known_tags type_tag
--   ->  the time; then the version of the change or 0, and the new stamp and times, if there is something to touch; nothing
--   if it is late; 'T', the time and the tags of the stored value if these are not `known_tags`, to which the tag versions
--   belong
-- Gives the stored value a new lifetime; or if it `extends` one ('1'), never a shorter one, and not beyond the end.
local value_key, clock_key, log_key = KEYS[1], KEYS[2], KEYS[3]
local channel, new_epoch, payload, new_times, fallback_ms, extends, deadline, known_tags, type_tag = unpack(ARGV)
local FIRST_TAG = 4

local now = time()
if has_passed(deadline) then
  return false
end
local epoch, _, issued = ensure_clock(clock_key, new_epoch)
local head, offset = find_value(head_of, value_key, type_tag)
local ver, expires_at, written_at, stale, ends, l1 = read_issued(head, epoch, issued)
if not ver or now >= expires_at then
  return struct.pack('>I8', now)
end
local tags = stored_tags(value_key, head, offset)
if tags and tags ~= known_tags then
  return 'T' .. struct.pack('>I8', now) .. tags
end
if not tags or not is_valid(FIRST_TAG, #KEYS, epoch, ver) then
  return struct.pack('>I8', now)
end
local _, ttl, longest = struct.unpack('>I8I8I8', new_times)
-- The new times count from now, those of the value from when it was written.
local age = now - written_at
local expires = age + ttl
if extends ~= '1' then
  ends = longest == 0 and 0 or math.max(age + longest, 1)
else
  expires = math.max(expires_at - written_at, ends == 0 and expires or math.min(expires, ends - 1))
end
expires = math.max(expires, 0)
local change = 0
if written_at + expires < expires_at then
  -- Instances hold it for longer: by the message they read it anew.
  _, change = publish(clock_key, log_key, channel, new_epoch, payload)
end
local times = pack_times(stale, expires, ends, l1)
set_times(value_key, offset, times)
local ttl_ms = expires - age + fallback_ms
set_ttl(value_key, head, offset, ttl_ms)
for i = FIRST_TAG, #KEYS do
  redis.call('PEXPIRE', KEYS[i], ttl_ms, 'GT')
end
return struct.pack('>I8I8', now, change) .. stamp(epoch, ver, written_at) .. times
