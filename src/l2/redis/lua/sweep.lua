-- SWEEP  members sweeper | new_generation id ttl_ms
--   ->  as MEMBERS, of all members; nothing if another instance is the sweeper
-- The sweeper removes members that have ended. An instance stays the sweeper for `ttl_ms` after its last SWEEP (rule 16).
-- It has a key of its own: in the list, an instance of an older release takes any other field than `list` for the entry of
-- a member. A key without a TTL names nobody, or there would be no other sweeper after this one.
local members_key, sweeper_key = KEYS[1], KEYS[2]
local new_generation, id, ttl_ms = unpack(ARGV)

local sweeper = checked(redis.pcall('GET', sweeper_key), 'GET')
if sweeper and sweeper ~= id and redis.call('PTTL', sweeper_key) >= 0 then
  return nil
end
redis.call('SET', sweeper_key, id, 'PX', ttl_ms)
local generation, _, members = read_members(members_key, new_generation)
return {generation, members}
