-- BYPASS  bypass | most [prefix ms]  ->  all prefixes that are bypassed, or nothing if there would be too many
-- All instances leave the keys that begin with the prefix out of the cache for so long; 0 ends that.
local prefix, ms = ARGV[2], tonumber(ARGV[3])
if prefix then
  local now, latest, others = time(), 0, 0
  local found = checked(redis.pcall('HGETALL', KEYS[1]), 'HGETALL') or {}
  for i = 1, #found, 2 do
    local till = time_of(found[i + 1])
    if found[i] == prefix or till <= now then
      redis.call('HDEL', KEYS[1], found[i])
    else
      latest, others = math.max(latest, till), others + 1
    end
  end
  if ms > 0 and others >= tonumber(ARGV[1]) then
    return false
  end
  if ms > 0 then
    redis.call('HSET', KEYS[1], prefix, string.format('%.0f', now + ms))
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(latest - now, ms)))
  end
end
return bypassed(KEYS[1])
