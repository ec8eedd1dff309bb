-- The list of members is a hash: an entry for each member, and the field `list`, `generation:age`. A list that may have
-- lost members gets another generation. Its age, in ms, is a lower bound that members measure with their own monotonic
-- clocks: no wall clock, which can be stepped, takes part.

-- The number that a string of digits stands for; nil for anything else, or if it is above `most`.
local function whole(digits, most)
  local n = tonumber(string.match(digits or '', '^%d+$'))
  return n and n <= most and n or nil
end

-- Generation and age; nil if the list is missing or damaged.
local function list(live)
  local stored = checked(redis.pcall('HGET', live, 'list'), 'HGET')
  local generation, age = string.match(type(stored) == 'string' and stored or '', '^(%d+):(%d+)$')
  generation, age = whole(generation, 2 ^ 53), whole(age, 2 ^ 53)
  if generation and age then
    return generation, age
  end
end

local function set_list(live, generation, age)
  redis.call('HSET', live, 'list', string.format('%.0f:%.0f', generation, age))
end

-- Starts another generation, named by a random number of the caller, of age 0. Members that are still listed remain.
local function renew_list(live, rnd)
  if redis.call('TYPE', live).ok ~= 'hash' then
    redis.call('DEL', live)
  end
  set_list(live, rnd, 0)
  return tonumber(rnd), 0
end

-- max_staleness in the entry of a member, `epoch:seq:max_staleness:note`; nil if the entry is not of this form.
local function staleness_of(id, entry)
  local epoch, seq, staleness, note = string.match(entry, '^(%d+):(%d+):(%d+):(%d+)$')
  -- No cache accepts more than an hour.
  if epoch and whole(id, 2 ^ 53) and math.max(epoch, seq, note) <= 2 ^ 53 and tonumber(staleness) <= 3600000 then
    return tonumber(staleness)
  end
end

-- The fields of the list with their values in turn; with `ids` only those of these members that are there.
local function fields(live, ids)
  if not ids then
    return checked(redis.pcall('HGETALL', live), 'HGETALL') or {}
  end
  local found = {}
  for i, entry in ipairs(checked(redis.pcall('HMGET', live, unpack(ids)), 'HMGET') or {}) do
    if entry then
      found[#found + 1] = ids[i]
      found[#found + 1] = entry
    end
  end
  return found
end

-- Generation and age of the list, the members' ids and entries in turn, and their longest max_staleness; with `ids`, of
-- those members. An entry that makes no sense may have replaced a member's: it is removed, and the list gets another
-- generation.
local function members(live, rnd, ids)
  local generation, age = list(live)
  local damaged, known, longest = not generation, {}, 0
  local found = fields(live, ids)
  for i = 1, #found, 2 do
    local id, entry = found[i], found[i + 1]
    local staleness = id ~= 'list' and staleness_of(id, entry)
    if staleness then
      known[#known + 1] = id
      known[#known + 1] = entry
      longest = math.max(longest, staleness)
    elseif id ~= 'list' then
      redis.call('HDEL', live, id)
      damaged = true
    end
  end
  if damaged then
    generation, age = renew_list(live, rnd)
  end
  return generation, age, known, longest
end
