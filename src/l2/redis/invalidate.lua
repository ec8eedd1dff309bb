-- INVALIDATE  clock log live (value lease)... [hold]... | channel rnd payload hold forgotten  ->  stamp seq patience age
-- For `hold` ms nobody gets a lease; a hold that lasts longer stays.
local holds = ARGV[4] == '0' and 0 or (#KEYS - 3) / 3
redis.call('DEL', unpack(KEYS, 4, #KEYS - holds))
for i = #KEYS - holds + 1, #KEYS do
  -- To LEAD, what is no string is not there.
  if redis.pcall('GET', KEYS[i]) ~= '' or redis.call('PTTL', KEYS[i]) < tonumber(ARGV[4]) then
    redis.call('SET', KEYS[i], '', 'PX', ARGV[4])
  end
end
local epoch, ver, seq = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
-- Somebody waits for all members (kind 3): the longest that it may take, and for how long there has been
-- a list of them.
local patience, age = 0, 0
if string.byte(ARGV[3]) == 3 then
  age = math.max(time() - (redis.call('HGET', KEYS[1], 'since') or 0), 0)
  local known = members_of(KEYS[3], ARGV[5])
  for i = 2, #known, 2 do
    patience = math.max(patience, tonumber(string.match(known[i], ':(%d+):%d+$')))
  end
end
return struct.pack('>I8I8I8I8I8I8', epoch, ver, time(), seq, patience, age)
