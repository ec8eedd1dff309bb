-- MEMBERS  live | rnd  ->  generation, {id, epoch:seq:max_staleness:heartbeat, ...}
local generation, _, known = members(KEYS[1], ARGV[1])
return {generation, known}
