-- A time of this server in ms, as a text has it; 0 if it is damaged.
local function time_in(text)
  return #text < 16 and tonumber(string.match(text, '^%d+$')) or 0
end

-- The prefixes of keys that all instances leave out of the cache now: the time, and for each prefix a text with the time
-- at which that ends, a space and the prefix. A hash has them, with the times as values.
local function bypassed(bypass_key)
  local now, found = time(), checked(redis.pcall('HGETALL', bypass_key), 'HGETALL') or {}
  local answer = {string.format('%.0f', now)}
  for i = 1, #found, 2 do
    local prefix, ends_at = found[i], found[i + 1]
    if time_in(ends_at) > now then
      answer[#answer + 1] = ends_at .. ' ' .. prefix
    end
  end
  return answer
end

