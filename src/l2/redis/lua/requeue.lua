-- REQUEUE  dead writes value lease hold clock log | id channel rnd payload  ->  whether it waits again
-- Puts a dead letter back into the stream, with the number that it had, unless a newer write of its key waits.
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not found then
  return 0
end
local at, f = time(), fields(found)
local number = number_of(f, ARGV[1])
-- What waits may be an older dead letter of the key, which was put back before this one.
local waits = read_mark(checked(redis.pcall('GET', KEYS[5]), 'GET'))
local newest = waits and redis.call('XRANGE', KEYS[2], waits, waits)[1]
if newest and is_up_to(number, number_of(fields(newest), waits)) then
  redis.call('XDEL', KEYS[1], ARGV[1])
  return 0
end
-- First, as in APPEND: what is refused stays a dead letter.
publish(KEYS[6], KEYS[7], ARGV[2], ARGV[3], ARGV[4])
local id = add_write(KEYS[2], KEYS[6], ARGV[3], at, 'k', f.k, 'i', f.i, 'b', f.b, 'v', number)
write_mark(KEYS[5], id, held_till(KEYS[5], at), 0, 0)
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3], KEYS[4])
return 1
