-- INVALIDATE  clock log live (value lease)... [hold]... | channel rnd payload hold
--   ->  stamp seq longest_staleness generation age
-- One step (rule 2); without keys it only publishes. No lease is granted for `hold` ms (rule 15); a hold that lasts
-- longer stays.
local holds = ARGV[4] == '0' and 0 or (#KEYS - 3) / 3
if #KEYS > 3 then
  redis.call('DEL', unpack(KEYS, 4, #KEYS - holds))
end
for i = #KEYS - holds + 1, #KEYS do
  -- ACQUIRE_LEASE ignores a hold of another type.
  local now = checked(redis.pcall('GET', KEYS[i]), 'GET')
  local id, till, epoch, ver = read_mark(now)
  if id then
    write_mark(KEYS[i], id, math.max(till, time() + ARGV[4]), epoch, ver)
  elseif now ~= '' or redis.call('PTTL', KEYS[i]) < tonumber(ARGV[4]) then
    redis.call('SET', KEYS[i], '', 'PX', ARGV[4])
  end
end
local epoch, ver, seq = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
-- Kind 3: the caller waits until all members have applied the message (rule 16).
local generation, age, known, longest = 0, 0, {}, 0
if string.byte(ARGV[3]) == 3 then
  generation, age, known, longest = members(KEYS[3], ARGV[2])
end
return struct.pack('>I8I8I8I8I8I8I8', epoch, ver, time(), seq, longest, generation, age)
