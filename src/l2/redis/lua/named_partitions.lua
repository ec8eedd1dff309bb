-- The number of partitions that a clock names; 0 for none.
local function named_partitions(clock)
  local named = checked(redis.pcall('HGET', clock, 'partitions'), 'HGET')
  named = tonumber(string.match(type(named) == 'string' and named or '', '^%d%d?$')) or 0
  return named <= 16 and named or 0
end
