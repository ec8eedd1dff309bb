-- MEMBERS  live clock | forgotten  ->  epoch, {id, epoch:seq:staleness:at, ...}
local known = members_of(KEYS[1], ARGV[1])
return {position(KEYS[2]) or 0, known}
