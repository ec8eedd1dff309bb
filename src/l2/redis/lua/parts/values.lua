-- The values of a key: one for each type tag, one behind the other (rule 29).

-- How many values a key has at most.
local MAX_VALUES = 4

-- The head, offset and length of each value. `read` returns the head at an offset.
local function heads(read, values)
  local found, offset = {}, 0
  for i = 1, MAX_VALUES do
    local head = read(values, offset)
    local length = length_of(head)
    found[i] = length and {head = head, offset = offset, length = length}
    if not length or not is_followed(head) then
      break
    end
    offset = offset + length
  end
  return found
end

-- The head and the offset of the value with a type tag; an empty head if there is none.
local function find_value(read, values, type_tag)
  -- Mostly there is one value, and no list to make.
  local head = read(values, 0)
  if type_tag_of(head) == type_tag then
    return head, 0
  end
  for _, value in ipairs(is_followed(head) and heads(read, values) or {}) do
    if type_tag_of(value.head) == type_tag then
      return value.head, value.offset
    end
  end
  return '', 0
end

-- As read_stamp(), without the epoch, for a value of the present epoch. Nil for any other, and for a version that the
-- partition has not issued: such a value would outlive invalidations (rule 11).
local function read_issued(head, present_epoch, issued)
  local epoch, ver, expires_at, written_at, stale, ends, l1 = read_stamp(head)
  if epoch and epoch == present_epoch and ver <= issued then
    return ver, expires_at, written_at, stale, ends, l1
  end
end
