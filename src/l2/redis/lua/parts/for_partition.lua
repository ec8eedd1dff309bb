-- Calls a function for one partition. If the step is for several, an error of one must not fail the others: then the answer
-- is nil.
local function for_partition(are_several, f, ...)
  if not are_several then
    return f(...)
  end
  local ok, answer = pcall(f, ...)
  return ok and answer or nil
end

