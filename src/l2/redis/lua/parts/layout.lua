-- The layout of a stored value. Places count from 1, as Lua does; `wire/envelope.rs` has the layout from 0. A value is
--     1  magic, 'LRD\132' if the value of another type follows (rule 29), else 'LRD\4'
--     5  stamp: epoch, ver, when it was written, and the sum of the three
--    37  times, with their sum; here the body begins, which the caller sends
--    78  flags    79  length of the tags    81  type tag    89  length of the payload
--   101  payload, tags
-- All that comes before the payload is the head. The numbers are no constants, here and in the parts that read a field
-- themselves: a script would make constants anew whenever it runs.

-- The head at an offset in values that were read.
local function head_in(values, offset)
  return string.sub(values, offset + 1, offset + 100)
end

-- How long a value is, by its head; nil if it is not a value.
local function length_of(head)
  local format = #head == 100 and string.sub(head, 1, 3) == 'LRD' and string.byte(head, 4)
  if format == 4 or format == 132 then
    return 100 + struct.unpack('>I2', head, 79) + struct.unpack('>I4', head, 89)
  end
end

-- Whether the value of another type follows.
local function is_followed(head)
  return string.byte(head, 4) == 132
end

-- Epoch and ver of a value, when it expires, when it was written, and its other times; nil if it is not a value. The
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

local function type_tag_of(head)
  return string.sub(head, 81, 88)
end
