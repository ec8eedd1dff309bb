-- INSERT  clock log value... lease... tag_version... staged... | channel new_epoch payload deadline (body ttl_ms)...
--   ->  clock, or nothing if it is late
-- The first tag versions are those of the first value, then come those of the second, and so on. After the deadline it
-- stores nothing (rule 14).
local keys, args = KEYS, ARGV
local clock_key, log_key = keys[1], keys[2]
local channel, new_epoch, payload, deadline = unpack(args, 1, 4)
local COMMON_KEYS, COMMON_ARGS = 2, 4

local value_count = (#args - COMMON_ARGS) / 2
local first_lease = COMMON_KEYS + value_count + 1
local first_tag, next_staged = first_lease + value_count, #keys + 1
-- Mostly no value has tags or is staged, so that the keys end with the leases. Then no body is looked at.
local are_plain = first_tag == next_staged
if not are_plain then
  for i = 1, value_count do
    local body = args[COMMON_ARGS + 2 * i - 1]
    next_staged = next_staged - (is_staged(body) and 1 or 0)
  end
end
if has_passed(deadline) or not are_staged(next_staged) then
  drop_staged(next_staged)
  return false
end
local epoch, ver = publish(clock_key, log_key, channel, new_epoch, payload)
local tags_end, value_stamp = next_staged, stamp(epoch, ver, time())
for i = 1, value_count do
  local value_key, body, ttl_ms = keys[COMMON_KEYS + i], args[COMMON_ARGS + 2 * i - 1], args[COMMON_ARGS + 2 * i]
  if are_plain or not is_staged(body) then
    redis.call('SET', value_key, value_stamp .. body, 'PX', ttl_ms)
  else
    put_staged(value_key, value_stamp, next_staged)
    next_staged = next_staged + 1
  end
  if first_tag < tags_end then
    local last_tag = first_tag + count_body_tags(body) - 1
    keep_tag_versions(last_invalidations(clock_key, first_tag, last_tag, epoch, ver), epoch, ttl_ms)
    first_tag = last_tag + 1
  end
end
redis.call('DEL', unpack(keys, first_lease, first_lease + value_count - 1))
return clock_answer()
