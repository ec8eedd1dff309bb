-- STORE_COUNTS  stats bypass | instance at counts folds  ->  the prefixes of keys that are bypassed
-- Keeps the counters of an instance: `stored at name=n name=n ...`. Those that no instance has stored for a day are added
-- up in the field 0.
local DAY = 86400000

-- Adds up the counters that no instance has stored for a day.
local function fold(stats, now)
  local fields, sums, ended = redis.call('HGETALL', stats), {}, {}
  for i = 1, #fields, 2 do
    local stored = tonumber(string.match(fields[i + 1], '^%d+'))
    if fields[i] == '0' or not stored or stored < now - DAY then
      for name, n in string.gmatch(fields[i + 1], '([%w_]+)=(%d+)') do
        sums[name] = (sums[name] or 0) + n
      end
      if fields[i] ~= '0' then
        ended[#ended + 1] = fields[i]
      end
    end
  end
  if #ended == 0 then
    return
  end
  local text = { '0 0' }
  for name, n in pairs(sums) do
    text[#text + 1] = string.format('%s=%.0f', name, n)
  end
  redis.call('HSET', stats, '0', table.concat(text, ' '))
  for _, field in ipairs(ended) do
    redis.call('HDEL', stats, field)
  end
end

if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
end
local now = time()
local former = redis.call('HGET', KEYS[1], ARGV[1])
-- A late copy does not replace later counters.
if not former or (tonumber(string.match(former, '^%d+ (%d+)')) or 0) <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s %s', now, ARGV[2], ARGV[3]))
end
if ARGV[4] == '1' then
  fold(KEYS[1], now)
end
return bypassed(KEYS[2])
