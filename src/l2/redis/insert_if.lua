-- INSERT_IF  value lease clock log done marker... marker... | channel rnd payload deadline body kept epoch ver tags
--   ->  stamp, or the time if another version is stored; nothing if it is late; 'T', the time and the tags of the stored
--   value if they are others than `tags`, which have the last markers; the first are those of the new value
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
local head = head_of(KEYS[1])
local of, ver, expires_at = read_stamp(head)
if of ~= epoch or ver > issued or at >= expires_at then
  of, ver = 0, 0
else
  local tags = tags_of(KEYS[1], head)
  if tags and tags ~= ARGV[9] then
    return 'T' .. struct.pack('>I8', at) .. tags
  end
  if not tags or not is_valid(own + 1, epoch, ver) then
    of, ver = 0, 0
  end
end
if of ~= tonumber(ARGV[7]) or ver ~= tonumber(ARGV[8]) then
  return struct.pack('>I8', at)
end
epoch, ver = publish(KEYS[3], KEYS[4], ARGV[1], ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], stamp(epoch, ver, at) .. ARGV[5], 'PX', ARGV[6])
keep_markers(invalidated(KEYS[3], 6, own, epoch, ver), epoch, ARGV[6])
redis.call('DEL', KEYS[2])
local answer = struct.pack('>I8I8I8', epoch, ver, at)
-- After the deadline no copy asks for it.
redis.call('SET', KEYS[5], answer, 'PX', ARGV[4] == '' and 60000 or ARGV[4] - at + 1)
return answer
