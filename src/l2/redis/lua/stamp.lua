-- What is stored before the body of each value that is written in this step: its last number is the sum of the others, as
-- a check. Its first bytes say whether another value of the key follows (rule 29).
local function stamp(epoch, ver, at, is_followed)
  local numbers = struct.pack('>I8I8I8I8', epoch, ver, at, epoch + ver + at)
  return (is_followed and 'LRD\132' or 'LRD\4') .. numbers
end
