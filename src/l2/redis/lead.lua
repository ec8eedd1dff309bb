-- LEAD  value lease clock | token ms want rnd  ->  answer, value, number
local epoch = clock(KEYS[3], ARGV[4])
local now = time()
local v = redis.pcall('GET', KEYS[1])
if type(v) == 'string' and ARGV[3] ~= '*' and #v >= 84 and string.sub(v, 1, 4) == 'LRD\1' and string.byte(v, 38) == 0 then
  local of, ver, at = struct.unpack('>I8I8I8', v, 5)
  local hard = struct.unpack('>I8', v, 65)
  if of == epoch and now < at + hard and ver ~= tonumber(ARGV[3]) then
    return {'HIT', v, 0}
  end
end
if ARGV[2] == '0' then
  return {'MISS', false, 0}
end
-- A lease names its epoch: one of another fills nothing any more, and need not be waited for.
local mine = lease(epoch, ARGV[1])
local held = redis.pcall('GET', KEYS[2])
if type(held) ~= 'string' then
  held = nil
end
if held == 'hold' then
  return {'HOLD', false, 0}
end
if held and held ~= mine and string.find(held, lease(epoch, ''), 1, true) == 1 then
  return {'WAIT', false, math.max(redis.call('PTTL', KEYS[2]), 0)}
end
if held ~= mine then
  redis.call('SET', KEYS[2], mine, 'PX', ARGV[2])
end
return {'LEAD', false, epoch}
