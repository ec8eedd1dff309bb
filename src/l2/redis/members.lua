-- MEMBERS  live clock | forgotten  ->  epoch, {id, epoch:seq:staleness:at, ...}
local known = {}
local members = redis.call('HGETALL', KEYS[1])
for i = 1, #members, 2 do
  if silence(members[i + 1]) <= tonumber(ARGV[1]) then
    known[#known + 1] = members[i]
    known[#known + 1] = members[i + 1]
  end
end
return {tonumber(redis.call('HGET', KEYS[2], 'epoch') or 0), known}
