-- SETTLE  worker writes dead clock log (value lease hold)...
--     | fence channel new_epoch payload_head failed reason keys (key_text last_id stored)... id...
--   ->  1, or 0 if the fence is another worker's
-- Removes entries, to the dead letters if they have `failed` ('1'), and ends the marks of their keys: a load may be stored
-- from here on. Invalidates their values in the same step. A value stays if the last write of its key stored it and the
-- source has exactly this value (`stored` = '1', rule 24). `last_id` is the newest id of each key; if the mark names a
-- newer one, the key is left alone. `payload_head` is how the message begins that names the keys that were invalidated.
local worker_key, writes_key, dead_key, clock_key, log_key = unpack(KEYS, 1, 5)
local fence, channel, new_epoch, payload_head, failed, reason, key_count = unpack(ARGV, 1, 7)
local COMMON_KEYS, COMMON_ARGS = 5, 7

local present_fence = checked(redis.pcall('GET', worker_key), 'GET')
if present_fence and present_fence ~= fence then
  return 0
end
local now = time()
for i = COMMON_ARGS + 3 * key_count + 1, #ARGV do
  local id = ARGV[i]
  local entry = failed == '1' and redis.call('XRANGE', writes_key, id, id)[1]
  if entry then
    local fields = entry_fields(entry)
    add_entry(dead_key, 'k', fields.k, 'i', fields.i, 'b', fields.b, 'v', fields.v or id, 'e', reason)
  end
  redis.call('XDEL', writes_key, id)
end
local present_epoch, invalidated = read_clock(clock_key), {}
for i = 0, key_count - 1 do
  local value_key, lease_key, hold_key = unpack(KEYS, COMMON_KEYS + 3 * i + 1, COMMON_KEYS + 3 * i + 3)
  local key_text, last_id, stored = unpack(ARGV, COMMON_ARGS + 3 * i + 1, COMMON_ARGS + 3 * i + 3)
  local id, held_until, epoch, ver = read_mark(checked(redis.pcall('GET', hold_key), 'GET'))
  if not id or is_up_to(id, last_id) then
    if id then
      end_mark(hold_key, held_until, now)
    end
    local is_current = false
    if stored == '1' and id == last_id and epoch == present_epoch then
      -- APPEND stores it alone, and no load is stored beside it while the mark is there: so it is in front, or gone. No
      -- version is issued twice, so a value with this one is the one that was given to the source.
      is_current = read_issued(head_of(value_key, 0), epoch, ver) == ver
    end
    if not is_current then
      redis.call('DEL', value_key, lease_key)
      invalidated[#invalidated + 1] = struct.pack('>I2', #key_text) .. key_text
    end
  end
end
if #invalidated > 0 then
  local payload = payload_head .. struct.pack('>I2', #invalidated) .. table.concat(invalidated)
  publish(clock_key, log_key, channel, new_epoch, payload)
end
return 1
