-- INSERT_IF  value lease clock log done tag_version... tag_version... | channel rnd payload deadline body px
--            epoch ver tags
--   ->  stamp, or what `other_version` answers; nothing if it is late. The first tag versions are those of the new
--   value, the last ones those of `tags`.
-- Each call has a key `done` of its own, by which a copy that is sent again knows the success of another one. It looks
-- there first: what the other one stored may be gone since, and would be stored again where nothing is to be.
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local done = redis.call('GET', KEYS[5])
if done then
  return done
end
local epoch, _, issued = clock(KEYS[3], ARGV[2])
local own = 5 + count_tags(ARGV[5])
local other = other_version(at, epoch, issued, own + 1, ARGV[7], ARGV[8], ARGV[9], ARGV[5])
if other then
  return other
end
local ver
epoch, ver = publish(KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], stamp(epoch, ver, at) .. ARGV[5], 'PX', ARGV[6])
keep_tag_versions(invalidated(KEYS[3], 6, own, epoch, ver), epoch, ARGV[6])
redis.call('DEL', KEYS[2])
local answer = struct.pack('>I8I8I8', epoch, ver, at)
-- After the deadline no copy asks for it.
redis.call('SET', KEYS[5], answer, 'PX', ARGV[4] == '' and 60000 or ARGV[4] - at + 1)
return answer
