-- COUNT  stats reported | number ttl deadline (name n)...  ->  1, or 0 after the deadline
-- Adds what an instance has counted to the sums of the fleet. A report with a number that was seen counts nothing.
local deadline = tonumber(ARGV[3])
if deadline and time() > deadline then
  return 0
end
local last = checked(redis.pcall('GET', KEYS[2]), 'GET')
if (tonumber(last or nil) or 0) >= tonumber(ARGV[1]) then
  return 1
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
end
-- First: if this is refused, the report is sent again, and nothing of it must have been added.
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
for i = 4, #ARGV, 2 do
  local digits = string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^%d+$')
  local sum = tonumber(digits) or 0
  -- Lua counts whole numbers without gaps below 2^53.
  sum = sum < 2 ^ 53 and sum or 0
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%.0f', sum + ARGV[i + 1]))
end
return 1
