-- MEMBERS  members | new_generation [id...]
--   ->  generation, {id, epoch:seq:max_staleness:note, ...}, of all members or of these
local members_key, new_generation = KEYS[1], ARGV[1]
local ids = ARGV[2] and {unpack(ARGV, 2)}

local generation, _, members = read_members(members_key, new_generation, ids)
return {generation, members}
