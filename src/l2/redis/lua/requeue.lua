-- REQUEUE  dead writes value lease hold clock log | id channel new_epoch payload  ->  whether it waits again
-- Puts a dead letter back into the stream, with the number that it had, unless a newer write of its key waits.
local dead_key, writes_key, value_key, lease_key, hold_key, clock_key, log_key = unpack(KEYS)
local id, channel, new_epoch, payload = unpack(ARGV)

local letter = redis.call('XRANGE', dead_key, id, id)[1]
if not letter then
  return 0
end
local fields = entry_fields(letter)
local number = number_of(fields, id)
-- What waits may be an older dead letter of the key, which was put back before this one.
local waiting_id = read_mark(checked(redis.pcall('GET', hold_key), 'GET'))
local waiting = waiting_id and redis.call('XRANGE', writes_key, waiting_id, waiting_id)[1]
if waiting and is_up_to(number, number_of(entry_fields(waiting), waiting_id)) then
  redis.call('XDEL', dead_key, id)
  return 0
end
-- First, as in APPEND: what is refused stays a dead letter.
publish(clock_key, log_key, channel, new_epoch, payload)
local new_id = add_write(writes_key, clock_key, new_epoch, 'k', fields.k, 'i', fields.i, 'b', fields.b, 'v', number)
write_mark(hold_key, new_id, read_held_until(hold_key), 0, 0)
redis.call('XDEL', dead_key, id)
redis.call('DEL', value_key, lease_key)
return 1
