-- APPEND  value lease hold clock log writes dead done tag_version... tag_version...
--   | channel new_epoch payload deadline body ttl_ms most_writes key_text write_id
--     (expected_epoch expected_ver known_tags)?
--   ->  clock; 'F' and the time if the stream is full; what `other_version` answers, if a version is expected; nothing if
--   it is late
-- The first tag versions are those of the new value, the last ones those of `known_tags`.
--
-- The value, the entry of the stream and the mark come in one step, so a write is acknowledged with all of them or not at
-- all. Dead letters count towards the bound. A copy that is sent again answers what the first one did, also if the stream
-- was full. Where another version was stored the copy finds another one, too, as no version comes back.
local value_key, lease_key, hold_key, clock_key, log_key, writes_key, dead_key, done_key = unpack(KEYS, 1, 8)
local channel, new_epoch, payload, deadline, body, ttl_ms, most_writes, key_text, write_id,
  expected_epoch, expected_ver, known_tags = unpack(ARGV)
local FIRST_TAG = 9

if has_passed(deadline) then
  return false
end
local done = redis.call('GET', done_key)
if done then
  return done
end
local now, length = time(), redis.call('XLEN', writes_key)
length = length + redis.call('XLEN', dead_key)
if length >= tonumber(most_writes) then
  -- As the caller is told: a copy that is late must not find room.
  return keep_answer(done_key, deadline, 'F' .. struct.pack('>I8', now))
end
local first_known_tag = FIRST_TAG + count_body_tags(body)
if expected_epoch then
  local epoch, _, issued = ensure_clock(clock_key, new_epoch)
  local other = other_version(value_key, epoch, issued, first_known_tag, expected_epoch, expected_ver, known_tags, body)
  if other then
    return other
  end
end
-- First: if the right for it is missing, nothing waits that the caller takes for refused.
local epoch, ver = publish(clock_key, log_key, channel, new_epoch, payload)
local id = add_write(writes_key, clock_key, new_epoch, 'k', key_text, 'i', write_id, 'b', body)
write_mark(hold_key, id, read_held_until(hold_key), epoch, ver)
redis.call('SET', value_key, stamp(epoch, ver, now) .. body, 'PX', ttl_ms)
keep_tag_versions(last_invalidations(clock_key, FIRST_TAG, first_known_tag - 1, epoch, ver), epoch, ttl_ms)
redis.call('DEL', lease_key)
return keep_answer(done_key, deadline, clock_answer())
