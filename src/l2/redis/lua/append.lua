-- APPEND  value lease hold clock log writes dead done tag_version... tag_version... | channel rnd payload deadline body
--          px most key id (epoch ver tags)?
--   ->  stamp; 'F' and the time if the stream is full; what `other_version` answers, if a version is given; nothing if it is
--   late. The first tag versions are those of the new value, the last ones those of `tags`.
-- The value, the entry of the stream and the mark come in one step, so a write is acknowledged with all of them or not at
-- all. Dead letters count towards the bound. A copy that is sent again answers what the first one did, also if the stream
-- was full. Where another version was stored the copy finds another one, too, as no version comes back.
local at = time()
if ARGV[4] ~= '' and at > tonumber(ARGV[4]) then
  return false
end
local done = redis.call('GET', KEYS[8])
if done then
  return done
end
local length = redis.call('XLEN', KEYS[6])
length = length + redis.call('XLEN', KEYS[7])
local lasting = ARGV[4] == '' and 60000 or ARGV[4] - at + 1
if length >= tonumber(ARGV[7]) then
  -- As the caller is told: a copy that is late must not find room.
  local full = 'F' .. struct.pack('>I8', at)
  redis.call('SET', KEYS[8], full, 'PX', lasting)
  return full
end
local own = 8 + count_tags(ARGV[5])
if ARGV[10] then
  local epoch, _, issued = clock(KEYS[4], ARGV[2])
  local other = other_version(at, epoch, issued, own + 1, ARGV[10], ARGV[11], ARGV[12], ARGV[5])
  if other then
    return other
  end
end
-- First: if the right for it is missing, nothing waits that the caller takes for refused.
local epoch, ver = publish(KEYS[4], KEYS[5], ARGV[1], ARGV[2], ARGV[3])
local id = add_write(KEYS[6], KEYS[4], ARGV[2], at, 'k', ARGV[8], 'i', ARGV[9], 'b', ARGV[5])
write_mark(KEYS[3], id, held_till(KEYS[3], at), epoch, ver)
redis.call('SET', KEYS[1], stamp(epoch, ver, at) .. ARGV[5], 'PX', ARGV[6])
keep_tag_versions(invalidated(KEYS[4], 9, own, epoch, ver), epoch, ARGV[6])
redis.call('DEL', KEYS[2])
local answer = struct.pack('>I8I8I8', epoch, ver, at)
-- After the deadline no copy asks for it.
redis.call('SET', KEYS[8], answer, 'PX', lasting)
return answer
