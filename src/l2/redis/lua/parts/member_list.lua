-- The list of members is a hash: an entry for each member, and the field `list`, `generation:age`. A list that may have
-- lost members gets another generation. Its age, in ms, is a lower bound that members measure with their own monotonic
-- clocks: no wall clock, which can be stepped, takes part.

-- The largest number up to which Lua counts without gaps; and the longest max_staleness that a cache accepts, in ms.
local MOST, LONGEST_STALENESS = 2 ^ 53, 3600000

-- The number that a string of digits stands for; nil for anything else, or if it is above `most`.
local function whole_number(digits, most)
  local n = tonumber(string.match(digits or '', '^%d+$'))
  return n and n <= most and n or nil
end

-- Generation and age; nil if the list is missing or damaged.
local function read_list(members_key)
  local stored = checked(redis.pcall('HGET', members_key, 'list'), 'HGET')
  local generation, age = string.match(type(stored) == 'string' and stored or '', '^(%d+):(%d+)$')
  generation, age = whole_number(generation, MOST), whole_number(age, MOST)
  if generation and age then
    return generation, age
  end
end

local function set_list(members_key, generation, age)
  redis.call('HSET', members_key, 'list', string.format('%.0f:%.0f', generation, age))
end

-- Starts another generation, named by a random number of the caller, of age 0. Members that are still listed remain.
local function renew_list(members_key, new_generation)
  if redis.call('TYPE', members_key).ok ~= 'hash' then
    redis.call('DEL', members_key)
  end
  set_list(members_key, new_generation, 0)
  return tonumber(new_generation), 0
end

-- max_staleness in the entry of a member, `epoch:seq:max_staleness:note`; nil if the entry is not of this form.
local function staleness_of(id, entry)
  local epoch, seq, staleness, note = string.match(entry, '^(%d+):(%d+):(%d+):(%d+)$')
  if epoch and whole_number(id, MOST) and math.max(epoch, seq, note) <= MOST then
    staleness = tonumber(staleness)
    return staleness <= LONGEST_STALENESS and staleness or nil
  end
end

-- The fields of the list with their values in turn; with `ids` only those of these members that are there.
local function list_fields(members_key, ids)
  if not ids then
    return checked(redis.pcall('HGETALL', members_key), 'HGETALL') or {}
  end
  local found = {}
  for i, entry in ipairs(checked(redis.pcall('HMGET', members_key, unpack(ids)), 'HMGET') or {}) do
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
local function read_members(members_key, new_generation, ids)
  local generation, age = read_list(members_key)
  local is_damaged, members, longest = not generation, {}, 0
  local found = list_fields(members_key, ids)
  for i = 1, #found, 2 do
    local id, entry = found[i], found[i + 1]
    local staleness = id ~= 'list' and staleness_of(id, entry)
    if staleness then
      members[#members + 1] = id
      members[#members + 1] = entry
      longest = math.max(longest, staleness)
    elseif id ~= 'list' then
      redis.call('HDEL', members_key, id)
      is_damaged = true
    end
  end
  if is_damaged then
    generation, age = renew_list(members_key, new_generation)
  end
  return generation, age, members, longest
end
