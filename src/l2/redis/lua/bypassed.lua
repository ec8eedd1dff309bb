-- A time of this server in ms, as a text has it; 0 if it is damaged.
local function time_of(text)
  return #text < 16 and tonumber(string.match(text, '^%d+$')) or 0
end

-- The prefixes of keys that all instances leave out of the cache now: the time, and for each prefix a text with the time
-- at which that ends, a space and the prefix. A hash has them, with the times as values.
local function bypassed(key)
  local now, found = time(), checked(redis.pcall('HGETALL', key), 'HGETALL') or {}
  local list = {string.format('%.0f', now)}
  for i = 1, #found, 2 do
    if time_of(found[i + 1]) > now then
      list[#list + 1] = found[i + 1] .. ' ' .. found[i]
    end
  end
  return list
end

