-- ANNOUNCE  live | id epoch seq staleness forgotten
-- Notes who uses an L1 of this lane, and how far it is; forgets those who are long silent, if told when.
local entry = string.format('%s:%s:%s:%.0f', ARGV[2], ARGV[3], ARGV[4], time())
redis.call('HSET', KEYS[1], ARGV[1], entry)
if ARGV[5] ~= '' then
  local _, silent = members_of(KEYS[1], ARGV[5])
  for i = 1, #silent, 2 do
    redis.call('HDEL', KEYS[1], silent[i])
  end
end
