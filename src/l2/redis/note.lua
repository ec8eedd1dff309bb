-- NOTE  live | id entry generation age  ->  1, or 0 if the list is of another generation
-- The part of a heartbeat that updates the entry of a member (rule 16). `age` is how long the list has existed at
-- least, as the member has measured it.
local generation, age = list(KEYS[1])
if generation ~= tonumber(ARGV[3]) then
  return 0
end
if tonumber(ARGV[4]) > age then
  set_list(KEYS[1], generation, ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
