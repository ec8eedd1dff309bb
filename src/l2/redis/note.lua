-- NOTE  live... | {id entry generation age}...  ->  for each list 1, or 0 if it is of another generation
-- The part of a heartbeat that updates the entry of a member (rule 16). `age` is how long the list has existed at
-- least, as the member has measured it.
local function note(live, id, entry, joined, measured)
  local generation, age = list(live)
  if generation ~= tonumber(joined) then
    return 0
  end
  if tonumber(measured) > age then
    set_list(live, generation, measured)
  end
  redis.call('HSET', live, id, entry)
  return 1
end

local noted = {}
for i, live in ipairs(KEYS) do
  noted[i] = note(live, unpack(ARGV, 4 * i - 3, 4 * i))
end
return noted
