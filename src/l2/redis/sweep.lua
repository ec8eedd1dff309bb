-- SWEEP  sweeper | id ttl  ->  1 if this instance looks for silent members, for `ttl` ms from now on (rule 16)
-- Whoever does it may go on. A key of its own: in the list, an instance of an older release takes any other field than
-- `list` for the entry of a member. One that does not expire names nobody, or there would be no look any more.
local sweeper = checked(redis.pcall('GET', KEYS[1]), 'GET')
if sweeper and sweeper ~= ARGV[1] and redis.call('PTTL', KEYS[1]) >= 0 then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
