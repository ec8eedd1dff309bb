-- TOUCH  value clock log marker... | channel rnd payload ttls extends deadline tags
--   ->  the time; then the version of the change or 0, and the new stamp, if there is something to touch; nothing if it
--   is late; 'T', the time and the tags of the stored value if they are others than `tags`, which have these markers
-- A new life for what is there; or if it `extends` one ('1'), never a shorter one, and not beyond the end.
local at = time()
if ARGV[6] ~= '' and at > tonumber(ARGV[6]) then
  return false
end
local epoch, _, issued = clock(KEYS[2], ARGV[2])
local head = head_of(KEYS[1])
local of, ver, expires_at, written_at, stale_at, ends_at, l1 = read_stamp(head)
if of ~= epoch or ver > issued or at >= expires_at then
  return struct.pack('>I8', at)
end
local tags = tags_of(KEYS[1], head)
if tags and tags ~= ARGV[7] then
  return 'T' .. struct.pack('>I8', at) .. tags
end
if not tags or not is_valid(4, epoch, ver) then
  return struct.pack('>I8', at)
end
local ttl, _, ends, _, kept = struct.unpack('>I8I8I8I8I8', ARGV[4])
local expires = at + ttl
if ARGV[5] ~= '1' then
  ends_at = ends == 0 and 0 or at + ends - 1
else
  expires = math.max(expires_at, ends_at == 0 and expires or math.min(expires, ends_at))
end
local change = 0
if expires < expires_at then
  -- Instances hold it for longer: by the message they read it anew.
  _, change = publish(KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3])
end
local stamped = pack_stamp(epoch, ver, written_at, stale_at, expires, ends_at, l1)
redis.call('SETRANGE', KEYS[1], 0, stamped)
kept = expires - at + kept
redis.call('PEXPIRE', KEYS[1], kept)
for i = 4, #KEYS do
  redis.call('PEXPIRE', KEYS[i], kept, 'GT')
end
return struct.pack('>I8I8', at, change) .. stamped
