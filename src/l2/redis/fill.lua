-- FILL  value lease clock log marker... | token epoch body ttls rnd channel key payload  ->  answer, value, stamp
local epoch, seq, ver = clock(KEYS[3], ARGV[5])
local mark, began_at = standing(KEYS[2], KEYS[3], epoch, ARGV[2], ARGV[1])
if not mark then
  return rejected(KEYS[1])
end
-- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
local tags = invalidated(KEYS[3], 5, #KEYS, epoch, ver)
if any_after(tags, began_at) then
  end_lease(KEYS[2], mark, ARGV[6], ARGV[7])
  return rejected(KEYS[1])
end
local at = time()
if ARGV[8] ~= '' then
  epoch, ver = publish(KEYS[3], KEYS[4], ARGV[6], ARGV[5], ARGV[8])
else
  -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old.
  ver = ver + 1
  set_position(KEYS[3], epoch, seq, ver)
end
local stamped, kept = stamp(epoch, ver, at, ARGV[4])
redis.call('SET', KEYS[1], stamped .. ARGV[3], 'PX', kept)
keep_markers(tags, epoch, kept)
end_lease(KEYS[2], mark, ARGV[6], ARGV[7])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
