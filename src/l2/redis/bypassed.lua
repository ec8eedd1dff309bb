-- The prefixes of keys that all instances leave out of the cache now: the time, and for each prefix a text with the time
-- at which that ends, a space and the prefix. A hash has them, with the times as values.
local function bypassed(key)
  local now, found = time(), checked(redis.pcall('HGETALL', key), 'HGETALL') or {}
  local list = {string.format('%.0f', now)}
  for i = 1, #found, 2 do
    if (tonumber(found[i + 1]) or 0) > now then
      list[#list + 1] = found[i + 1] .. ' ' .. found[i]
    end
  end
  return list
end

