-- INVALIDATE  clock log members (value lease)... [hold]... | channel new_epoch payload hold_ms
--   ->  clock longest_staleness generation age
-- One step (rule 2); without keys it only publishes. No lease is granted for `hold_ms` (rule 15); a hold that lasts longer
-- stays.
local clock_key, log_key, members_key = KEYS[1], KEYS[2], KEYS[3]
local channel, new_epoch, payload, hold_ms = unpack(ARGV)
local COMMON_KEYS = 3
-- The kind of a message whose caller waits until all members have applied it (rule 16).
local AWAITED_KIND = 3

local hold_count = hold_ms == '0' and 0 or (#KEYS - COMMON_KEYS) / 3
local last_lease = #KEYS - hold_count
if #KEYS > COMMON_KEYS then
  redis.call('DEL', unpack(KEYS, COMMON_KEYS + 1, last_lease))
end
for i = last_lease + 1, #KEYS do
  local hold_key = KEYS[i]
  -- ACQUIRE_LEASE ignores a hold of another type.
  local stored = checked(redis.pcall('GET', hold_key), 'GET')
  local id, held_until, epoch, ver = read_mark(stored)
  if id then
    write_mark(hold_key, id, math.max(held_until, time() + hold_ms), epoch, ver)
  elseif stored ~= '' or redis.call('PTTL', hold_key) < tonumber(hold_ms) then
    redis.call('SET', hold_key, '', 'PX', hold_ms)
  end
end
publish(clock_key, log_key, channel, new_epoch, payload)
local generation, age, _, longest = 0, 0, {}, 0
if string.byte(payload) == AWAITED_KIND then
  generation, age, _, longest = read_members(members_key, new_epoch)
end
return clock_answer() .. struct.pack('>I8I8I8', longest, generation, age)
