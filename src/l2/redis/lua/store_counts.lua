-- STORE_COUNTS  stats bypass | instance counted_at counts folds  ->  the prefixes of keys that are bypassed
-- Keeps the counters of an instance: `stored_at counted_at name=n name=n ...`. Those that no instance has stored for a day
-- are added up in the field 0.
local stats_key, bypass_key = KEYS[1], KEYS[2]
local instance, counted_at, counts, folds = unpack(ARGV)
local DAY_MS, ENDED = 86400000, '0'

-- Adds up the counters that no instance has stored for a day.
local function fold(now)
  local fields, sums, ended = redis.call('HGETALL', stats_key), {}, {}
  for i = 1, #fields, 2 do
    local its_instance, its_counts = fields[i], fields[i + 1]
    local stored_at = tonumber(string.match(its_counts, '^%d+'))
    if its_instance == ENDED or not stored_at or stored_at < now - DAY_MS then
      for name, n in string.gmatch(its_counts, '([%w_]+)=(%d+)') do
        sums[name] = (sums[name] or 0) + n
      end
      if its_instance ~= ENDED then
        ended[#ended + 1] = its_instance
      end
    end
  end
  if #ended == 0 then
    return
  end
  local parts = {'0 0'}
  for name, n in pairs(sums) do
    parts[#parts + 1] = string.format('%s=%.0f', name, n)
  end
  redis.call('HSET', stats_key, ENDED, table.concat(parts, ' '))
  for _, its_instance in ipairs(ended) do
    redis.call('HDEL', stats_key, its_instance)
  end
end

if redis.call('TYPE', stats_key).ok ~= 'hash' then
  redis.call('DEL', stats_key)
end
local now = time()
local former = redis.call('HGET', stats_key, instance)
-- A late copy does not replace later counters.
if not former or (tonumber(string.match(former, '^%d+ (%d+)')) or 0) <= tonumber(counted_at) then
  redis.call('HSET', stats_key, instance, string.format('%.0f %s %s', now, counted_at, counts))
end
if folds == '1' then
  fold(now)
end
return bypassed(bypass_key)
