-- For how many of its max_staleness a member has not been heard of.
local function silence(entry)
  local staleness, at = string.match(entry or '', ':(%d+):(%d+)$')
  return at and (time() - at) / math.max(staleness, 1) or math.huge
end
