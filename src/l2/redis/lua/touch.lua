-- TOUCH  value clock log tag_version... | channel rnd payload times extra extends deadline tags type_tag
--   ->  the time; then the version of the change or 0, and the new stamp, if there is something to touch; nothing if it
--   is late; 'T', the time and the tags of the stored value if they are others than `tags`, to which the tag versions
--   belong
-- Gives the stored value a new lifetime; or if it `extends` one ('1'), never a shorter one, and not beyond the end.
local at = time()
if ARGV[7] ~= '' and at > tonumber(ARGV[7]) then
  return false
end
local epoch, _, issued = clock(KEYS[2], ARGV[2])
local head, place = find(head_of, KEYS[1], ARGV[9])
local ver, expires_at, written_at, stale, ends, l1 = read_issued(head, epoch, issued)
if not ver or at >= expires_at then
  return struct.pack('>I8', at)
end
local tags = tags_of(KEYS[1], head, place)
if tags and tags ~= ARGV[8] then
  return 'T' .. struct.pack('>I8', at) .. tags
end
if not tags or not is_valid(4, #KEYS, epoch, ver) then
  return struct.pack('>I8', at)
end
local _, ttl, longest = struct.unpack('>I8I8I8', ARGV[4])
-- The new times count from now, those of the value from when it was written.
local age = at - written_at
local expires = age + ttl
if ARGV[6] ~= '1' then
  ends = longest == 0 and 0 or math.max(age + longest, 1)
else
  expires = math.max(expires_at - written_at, ends == 0 and expires or math.min(expires, ends - 1))
end
expires = math.max(expires, 0)
local change = 0
if written_at + expires < expires_at then
  -- Instances hold it for longer: by the message they read it anew.
  _, change = publish(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
end
local times = pack_times(stale, expires, ends, l1)
redis.call('SETRANGE', KEYS[1], place + TIMES, times)
local px = expires - age + ARGV[5]
keep(KEYS[1], head, place, px)
for i = 4, #KEYS do
  redis.call('PEXPIRE', KEYS[i], px, 'GT')
end
return struct.pack('>I8I8', at, change) .. stamp(epoch, ver, written_at) .. times
