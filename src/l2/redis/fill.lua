-- FILL  value lease clock | token epoch body ttl rnd  ->  answer, value, stamp
-- The epoch is compared too: a restart can bring a deleted lease back, and a clear deletes none.
if redis.call('GET', KEYS[2]) ~= ARGV[1] or clock(KEYS[3], ARGV[5]) ~= tonumber(ARGV[2]) then
  local v = redis.pcall('GET', KEYS[1])
  return {'REJECTED', type(v) == 'string' and v, false}
end
local epoch, ver = next_ver(KEYS[3], ARGV[5])
local at = time()
redis.call('SET', KEYS[1], stamp(epoch, ver, at) .. ARGV[3], 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
return {'OK', false, {epoch, ver, at}}
