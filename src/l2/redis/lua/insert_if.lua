-- INSERT_IF  value lease clock log done tag_version... tag_version...
--   | channel new_epoch payload deadline body ttl_ms expected_epoch expected_ver known_tags
--   ->  clock, or what `other_version` answers; nothing if it is late
-- The first tag versions are those of the new value, the last ones those of `known_tags`.
--
-- Each call has a key `done` of its own, by which a copy that is sent again knows the success of another one. It looks
-- there first: what the other one stored may be gone since, and would be stored again where nothing is to be.
local value_key, lease_key, clock_key, log_key, done_key = unpack(KEYS, 1, 5)
local channel, new_epoch, payload, deadline, body, ttl_ms, expected_epoch, expected_ver, known_tags = unpack(ARGV)
local FIRST_TAG = 6

if has_passed(deadline) then
  return false
end
local done = redis.call('GET', done_key)
if done then
  return done
end
local epoch, _, issued = ensure_clock(clock_key, new_epoch)
local first_known_tag = FIRST_TAG + count_body_tags(body)
local other = other_version(value_key, epoch, issued, first_known_tag, expected_epoch, expected_ver, known_tags, body)
if other then
  return other
end
local ver
epoch, ver = publish(clock_key, log_key, channel, new_epoch, payload)
redis.call('SET', value_key, stamp(epoch, ver, time()) .. body, 'PX', ttl_ms)
keep_tag_versions(last_invalidations(clock_key, FIRST_TAG, first_known_tag - 1, epoch, ver), epoch, ttl_ms)
redis.call('DEL', lease_key)
return keep_answer(done_key, deadline, clock_answer())
