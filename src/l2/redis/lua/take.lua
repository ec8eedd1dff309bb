-- TAKE  worker writes | fence ms most bytes  ->  the first entries; nothing if another worker is alive
-- The fence names the one worker that may settle; it is renewed each time.
local fence = checked(redis.pcall('GET', KEYS[1]), 'GET')
if fence and fence ~= ARGV[1] then
  return false
end
-- The worker gives the stream up.
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return {}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return first_entries(KEYS[2], tonumber(ARGV[3]), tonumber(ARGV[4]))
