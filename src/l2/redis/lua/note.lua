-- NOTE  members | id entry generation min_age, {members id entry generation min_age}...
--   ->  for each list 1, or 0 if it could not be written
-- The part of a heartbeat that updates the entry of a member. It changes nothing in a list of another generation: the
-- answer to HEARTBEAT says so (rule 16). `min_age` is how long the list has existed at least, as the member has measured
-- it.
local are_several = #ARGV > 4

local function note(members_key, id, entry, its_generation, min_age)
  local generation, age = read_list(members_key)
  if generation ~= tonumber(its_generation) then
    return 1
  end
  if tonumber(min_age) > age then
    set_list(members_key, generation, min_age)
  end
  redis.call('HSET', members_key, id, entry)
  return 1
end

local answers = {}
-- The first list is a key, the others are among the arguments, as they may be of other slots.
for i = 1, #ARGV, 5 do
  local members_key = ARGV[i - 1] or KEYS[1]
  answers[#answers + 1] = for_partition(are_several, note, members_key, unpack(ARGV, i, i + 3)) or 0
end
return answers
