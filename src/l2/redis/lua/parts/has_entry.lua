-- Whether a stream has an entry. Users of caches without write-behind have no right to XLEN.
local function has_entry(stream)
  local first = checked(redis.pcall('XRANGE', stream, '-', '+', 'COUNT', 1), 'XRANGE')
  return first and #first > 0
end

