-- BYPASS  bypass | most [prefix ms]  ->  all prefixes that are bypassed, or nothing if there would be too many
-- All instances leave the keys that begin with the prefix out of the cache for so long; 0 ends that.
local bypass_key = KEYS[1]
local most, prefix, ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

if prefix then
  local now, latest, others = time(), 0, 0
  local found = checked(redis.pcall('HGETALL', bypass_key), 'HGETALL') or {}
  for i = 1, #found, 2 do
    local its_prefix, ends_at = found[i], time_in(found[i + 1])
    if its_prefix == prefix or ends_at <= now then
      redis.call('HDEL', bypass_key, its_prefix)
    else
      latest, others = math.max(latest, ends_at), others + 1
    end
  end
  if ms > 0 and others >= most then
    return false
  end
  if ms > 0 then
    redis.call('HSET', bypass_key, prefix, string.format('%.0f', now + ms))
    redis.call('PEXPIRE', bypass_key, string.format('%.0f', math.max(latest - now, ms)))
  end
end
return bypassed(bypass_key)
