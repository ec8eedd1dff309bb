-- Calls a function for one partition of several. An error of it must not fail the others: then the answer is nil. The error
-- of a partition that is alone is raised.
local function each(are_several, f, ...)
  if not are_several then
    return f(...)
  end
  local ok, answer = pcall(f, ...)
  return ok and answer or nil
end

