-- MEMBERS  live | rnd [id...]  ->  generation, {id, epoch:seq:max_staleness:note, ...}, of all members or of these
local generation, _, known = members(KEYS[1], ARGV[1], ARGV[2] and {unpack(ARGV, 2)})
return {generation, known}
