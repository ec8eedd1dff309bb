-- NOTE  live... | {id entry generation age}...
-- The part of a heartbeat that updates the entry of a member, unless the list is of another generation (rule 16). `age`
-- is how long the list has existed at least, as the member has measured it.
local function note(live, id, entry, joined, measured)
  local generation, age = list(live)
  if generation ~= tonumber(joined) then
    return
  end
  if tonumber(measured) > age then
    set_list(live, generation, measured)
  end
  redis.call('HSET', live, id, entry)
end

for i, live in ipairs(KEYS) do
  note(live, unpack(ARGV, 4 * i - 3, 4 * i))
end
