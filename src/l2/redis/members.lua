-- MEMBERS  live clock | forgotten  ->  epoch, {id, epoch:seq:staleness:at, ...}
local known = members_of(KEYS[1], ARGV[1])
return {tonumber(redis.call('HGET', KEYS[2], 'epoch') or 0), known}
