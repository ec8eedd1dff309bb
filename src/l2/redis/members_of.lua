-- Who is in a list of members, id and entry in turn: those that were heard of lately, and those that were not.
local function members_of(live, forgotten)
  local known, silent = {}, {}
  local all = redis.call('HGETALL', live)
  for i = 1, #all, 2 do
    local which = silence(all[i + 1]) <= tonumber(forgotten) and known or silent
    which[#which + 1] = all[i]
    which[#which + 1] = all[i + 1]
  end
  return known, silent
end
