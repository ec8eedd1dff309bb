-- EXPIRE  clock log (value lease)... | channel new_epoch payload  ->  clock
-- The values are stale from now on, and no load that has a lease now stores anything. By the message, instances read the
-- values anew. It says that the keys are invalidated, so that all releases know it; the log says that it is an expire.
local clock_key, log_key = KEYS[1], KEYS[2]
local channel, new_epoch, payload = ARGV[1], ARGV[2], ARGV[3]

local _, _, issued = ensure_clock(clock_key, new_epoch)
local epoch, ver = publish(clock_key, log_key, channel, new_epoch, payload, 'by', 'expire')
local now = time()
for i = 3, #KEYS, 2 do
  local value_key, lease_key = KEYS[i], KEYS[i + 1]
  for _, value in ipairs(heads(head_of, value_key)) do
    local stored, expires_at, written_at, stale, ends, l1 = read_issued(value.head, epoch, issued)
    if stored then
      -- One more than its age, as 0 is never.
      local stale_now = math.max(now - written_at, 0) + 1
      stale = stale == 0 and stale_now or math.min(stale, stale_now)
      set_times(value_key, value.offset, pack_times(stale, expires_at - written_at, ends, l1))
    end
  end
  redis.call('DEL', lease_key)
end
return clock_answer()
