-- EXPIRE  clock log (value lease)... | channel rnd payload  ->  stamp
-- The values are stale from now on, and no load that has a lease now stores anything. By the message, instances read the
-- values anew. It says that the keys are invalidated, so that all releases know it; the log says that it is an expire.
local _, _, issued = clock(KEYS[1], ARGV[2])
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], 'by', 'expire')
local at = time()
for i = 3, #KEYS, 2 do
  for _, value in ipairs(heads(head_of, KEYS[i])) do
    local stored, expires_at, written_at, stale, ends, l1 = read_issued(value.head, epoch, issued)
    if stored then
      local now = math.max(at - written_at, 0) + 1
      stale = stale == 0 and now or math.min(stale, now)
      local times = pack_times(stale, expires_at - written_at, ends, l1)
      redis.call('SETRANGE', KEYS[i], value.offset + TIMES, times)
    end
  end
  redis.call('DEL', KEYS[i + 1])
end
return struct.pack('>I8I8I8', epoch, ver, at)
