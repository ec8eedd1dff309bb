-- FILL  value lease clock log | token epoch body ttl soft l1 rnd channel key payload  ->  answer, value, stamp
-- The lease's epoch must be the present one: a restart can bring back a lease that an invalidation had deleted, and a
-- clear deletes none (rule 1).
local epoch, seq, ver = clock(KEYS[3], ARGV[7])
local held, mark = read_lease(redis.pcall('GET', KEYS[2]))
if epoch ~= tonumber(ARGV[2]) or held ~= lease(epoch, ARGV[1]) then
  local v = redis.pcall('GET', KEYS[1])
  return {'REJECTED', type(v) == 'string' and v, false}
end
local at = time()
if ARGV[10] ~= '' then
  epoch, ver = publish(KEYS[3], KEYS[4], ARGV[8], ARGV[7], ARGV[10])
else
  -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old.
  ver = ver + 1
  set_position(KEYS[3], epoch, seq, ver)
end
redis.call('SET', KEYS[1], stamp(epoch, ver, at, ARGV[4], ARGV[5], ARGV[6]) .. ARGV[3], 'PX', ARGV[4])
end_lease(KEYS[2], mark, ARGV[8], ARGV[9])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
