-- The values of a key: one for each type tag, one behind the other (rule 29). A head is what a value begins with, up to its
-- payload; it has the type tag in the bytes 81 to 88.

-- How many values a key has at most.
local MOST_VALUES = 4

-- The head at a place in values that were read.
local function head_in(values, offset)
  return string.sub(values, offset + 1, offset + 100)
end

-- How long a value is, and whether another one follows; nil if it is not a value.
local function length_of(head)
  local magic = #head == 100 and string.sub(head, 1, 4)
  if magic == 'LRD\4' or magic == 'LRD\132' then
    local tags, payload = struct.unpack('>I2', head, 79), struct.unpack('>I4', head, 89)
    return 100 + tags + payload, magic == 'LRD\132'
  end
end

-- The heads of all values, with their places and lengths. `read` returns the head at a place.
local function heads(read, values)
  local found, offset = {}, 0
  for i = 1, MOST_VALUES do
    local head = read(values, offset)
    local length, is_followed = length_of(head)
    found[i] = length and {head = head, offset = offset, length = length}
    if not is_followed then
      break
    end
    offset = offset + length
  end
  return found
end

-- The head of the value with a type tag, and its place; empty if there is none.
local function find(read, values, type_tag)
  -- Mostly there is one value, and no list to make.
  local head = read(values, 0)
  if string.sub(head, 81, 88) == type_tag then
    return head, 0
  end
  for _, value in ipairs(string.byte(head, 4) == 132 and heads(read, values) or {}) do
    if string.sub(value.head, 81, 88) == type_tag then
      return value.head, value.offset
    end
  end
  return '', 0
end

-- Epoch and ver of a value, when it expires, when it was written, and its times; nil if it is not a value. The
-- sums are compared, as a script that changes the times writes theirs anew: it would make damaged times good.
local function read_stamp(head)
  if length_of(head) and string.byte(head, 78) == 0 then
    local epoch, ver, written_at, sum, stale, expires, ends, l1, sum_of_times =
      struct.unpack('>I8I8I8I8I8I8I8I8I8', head, 5)
    if epoch + ver + written_at == sum and stale + expires + ends + l1 == sum_of_times then
      return epoch, ver, written_at + expires, written_at, stale, ends, l1
    end
  end
end

-- The same of a value of this epoch, without the epoch; nil of any other, and of one whose version the partition has not
-- issued: it would outlive invalidations (rule 11).
local function read_issued(head, epoch, issued)
  local its_epoch, ver, expires_at, written_at, stale, ends, l1 = read_stamp(head)
  if its_epoch and its_epoch == epoch and ver <= issued then
    return ver, expires_at, written_at, stale, ends, l1
  end
end
