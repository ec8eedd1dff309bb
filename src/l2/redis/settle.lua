-- SETTLE  worker writes dead clock log (value lease hold)... | fence channel rnd payload failed reason keys last... id...
--   ->  1, or 0 if the fence is another worker's
-- Removes entries, to the dead letters if they have `failed` ('1'); and invalidates their keys, unless a newer write of a key waits.
-- `last` is the newest id of each key. The marks end in the same step: a load may be stored from here on.
local fence = checked(redis.pcall('GET', KEYS[1]), 'GET')
if fence and fence ~= ARGV[1] then
  return 0
end
local at, keys = time(), tonumber(ARGV[7])
for i = 8 + keys, #ARGV do
  local found = ARGV[5] == '1' and redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if found then
    local f = fields(found)
    add(KEYS[3], at, 'k', f.k, 'i', f.i, 'b', f.b, 'v', f.v or ARGV[i], 'e', ARGV[6])
  end
  redis.call('XDEL', KEYS[2], ARGV[i])
end
for i = 1, keys do
  local value, lease, hold = KEYS[3 + 3 * i], KEYS[4 + 3 * i], KEYS[5 + 3 * i]
  local id, till = read_mark(checked(redis.pcall('GET', hold), 'GET'))
  if not id or is_up_to(id, ARGV[7 + i]) then
    if id then
      end_mark(hold, till, at)
    end
    redis.call('DEL', value, lease)
  end
end
publish(KEYS[4], KEYS[5], ARGV[2], ARGV[3], ARGV[4])
return 1
