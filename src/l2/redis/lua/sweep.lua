-- SWEEP  live sweeper | rnd id ttl  ->  as MEMBERS, of all members; nothing if another instance is the sweeper
-- An instance stays the sweeper for `ttl` ms after its last SWEEP (rule 16). It has a key of its own: in the list, an
-- instance of an older release takes any other field than `list` for the entry of a member. A key without a TTL names
-- nobody, or there would be no other sweeper after this one.
local sweeper = checked(redis.pcall('GET', KEYS[2]), 'GET')
if sweeper and sweeper ~= ARGV[2] and redis.call('PTTL', KEYS[2]) >= 0 then
  return nil
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
local generation, _, known = members(KEYS[1], ARGV[1])
return {generation, known}
