-- TAKE  worker writes | fence ttl_ms most bytes  ->  the first entries; nothing if another worker is alive
-- The fence names the one worker that may settle; it is renewed each time. The worker gives the stream up if `ttl_ms` is 0.
local worker_key, writes_key = KEYS[1], KEYS[2]
local fence, ttl_ms, most, bytes = unpack(ARGV)

local present_fence = checked(redis.pcall('GET', worker_key), 'GET')
if present_fence and present_fence ~= fence then
  return false
end
if ttl_ms == '0' then
  redis.call('DEL', worker_key)
  return {}
end
redis.call('SET', worker_key, fence, 'PX', ttl_ms)
return first_entries(writes_key, tonumber(most), tonumber(bytes))
