-- How many partitions a namespace has at most.
local MAX_PARTITIONS = 16

-- The number of partitions that a clock names; 0 for none.
local function named_partitions(clock_key)
  local stored = checked(redis.pcall('HGET', clock_key, 'partitions'), 'HGET')
  local named = tonumber(string.match(type(stored) == 'string' and stored or '', '^%d%d?$')) or 0
  return named <= MAX_PARTITIONS and named or 0
end

