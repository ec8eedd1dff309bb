-- REVALIDATE  value lease clock | token epoch seen ttl soft l1 rnd channel key  ->  answer, value, stamp
-- As FILL, with the value that is stored already: if it is still the version `seen`, it gets a new stamp.
local epoch, seq, ver = clock(KEYS[3], ARGV[7])
local mark = standing(KEYS[2], epoch, ARGV[2], ARGV[1])
if not mark then
  return rejected(KEYS[1])
end
local of, stored = read_stamp(redis.pcall('GETRANGE', KEYS[1], 0, 83))
if of ~= epoch or stored ~= tonumber(ARGV[3]) then
  return {'ABSENT', false, false}
end
local at = time()
ver = ver + 1
set_position(KEYS[3], epoch, seq, ver)
redis.call('SETRANGE', KEYS[1], 0, stamp(epoch, ver, at, ARGV[4], ARGV[5], ARGV[6]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
end_lease(KEYS[2], mark, ARGV[8], ARGV[9])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
