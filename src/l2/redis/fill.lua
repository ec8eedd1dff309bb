-- FILL  value lease clock log tag_version... [staged] | token epoch body kept rnd channel key payload
--   ->  answer, value, stamp
local staged = #KEYS + (is_staged(ARGV[3]) and 0 or 1)
local epoch, seq, ver = clock(KEYS[3], ARGV[5])
local mark, began_at = standing(KEYS[2], KEYS[3], epoch, ARGV[2], ARGV[1])
if not mark then
  drop_staged(staged)
  return rejected(KEYS[1])
end
-- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
local tags = invalidated(KEYS[3], 5, staged - 1, epoch, ver)
if any_after(tags, began_at) or not are_staged(staged) then
  drop_staged(staged)
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
put(KEYS[1], stamp(epoch, ver, at), ARGV[3], ARGV[4], staged)
keep_tag_versions(tags, epoch, ARGV[4])
end_lease(KEYS[2], mark, ARGV[6], ARGV[7])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
