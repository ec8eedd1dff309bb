-- NOTE  live | id entry generation age, {live id entry generation age}...  ->  for each list 1, or 0 if it was refused
-- The part of a heartbeat that updates the entry of a member, unless the list is of another generation (rule 16). `age`
-- is how long the list has existed at least, as the member has measured it.
local function note(live, id, entry, joined, measured)
  local generation, age = list(live)
  if generation ~= tonumber(joined) then
    return 1
  end
  if tonumber(measured) > age then
    set_list(live, generation, measured)
  end
  redis.call('HSET', live, id, entry)
  return 1
end

local noted = {}
for i = 1, #ARGV, 5 do
  local live = ARGV[i - 1] or KEYS[1]
  noted[#noted + 1] = each(#ARGV > 4, note, live, unpack(ARGV, i, i + 3)) or 0
end
return noted
