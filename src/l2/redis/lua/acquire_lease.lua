-- ACQUIRE_LEASE  clock writes (value lease hold)... | rnd deadline tag hex (token ms want)...
--   ->  (answer, values or lease, number)...
-- Each request is answered as if it came alone, after those before it.
-- `want` is '' for any value, '*' for none that is stored, '!' for a new load whatever there is, '~' for one that may have
-- expired, or the version of the value that is to be replaced. All of them are about the value with the type tag,
-- which `hex` is in a lease.
local epoch, _, issued = clock(KEYS[1], ARGV[1])
local at, tag, hex = time(), ARGV[3], ARGV[4]
-- After the deadline nobody would use a lease.
local is_late = ARGV[2] ~= '' and at > tonumber(ARGV[2])
local began_at = string.format('%.0f:%.0f:', epoch, issued)
-- MGET answers nil for a value of another type.
local found, asked = redis.call('MGET', unpack(KEYS, 3)), {}

local function acquire(v, stored, hold, lease, hold_key, token, ms, want)
  local expired = false
  if v and want ~= '*' and want ~= '!' then
    local ver, expires_at = read_issued(find(head_in, v, tag), epoch, issued)
    if ver and ver ~= tonumber(want) then
      if want == '~' or at < expires_at then
        return 'HIT', v, 0
      end
      -- An expired value that is still stored: the load is given it as the previous one. A refresh has it already.
      expired = want == '' and v
    end
  end
  if ms == '0' or is_late then
    return 'MISS', false, 0
  end
  if hold then
    -- A write that waits for its source holds as long as it waits. If it is not in its stream, that was deleted.
    local written, till = read_mark(hold)
    if written and #(checked(redis.pcall('XRANGE', KEYS[2], written, written), 'XRANGE') or {}) == 0 then
      end_mark(hold_key, till, at)
      written, hold = nil, till > at
    end
    -- Any other hold without a TTL is not one of this crate.
    if hold and (written or redis.call('PTTL', hold_key) >= 0) then
      return 'HOLD', false, 0
    end
  end
  -- Loads of values with other type tags do not wait for each other.
  local mark, others, lasts = '', '', tonumber(ms)
  for other in string.gmatch(stored or '', '%S+') do
    local of, since, owner, type_tag, ends, waits = string.match(other, '^(%d+):(%d+):(%d+):(%x+):(%d+)(%+?)')
    local left = ends and ends - at or 0
    if left > 0 and type_tag ~= hex then
      others, lasts = others .. ' ' .. other, math.max(lasts, left)
    -- A lease that has ended, or one of another epoch, fills nothing any more: this load need not wait for it.
    elseif left > 0 and stands(KEYS[1], epoch, of, since) then
      if want ~= '!' then
        if waits == '' then
          local _, to = string.find(stored, other, 1, true)
          to = string.sub(other, -1) == '&' and to - 1 or to
          redis.call('SET', lease, string.sub(stored, 1, to) .. '+' .. string.sub(stored, to + 1), 'KEEPTTL')
        end
        return 'WAIT', of .. ':' .. owner, left
      end
      mark = waits
    end
  end
  -- No other copy of the request has this token (rule 1). Loads that wait for a lease that is taken over wait for this one.
  local own = began_at .. token .. ':' .. hex .. string.format(':%.0f', at + ms) .. mark
  local is_alone = not v or string.sub(v, 81, 88) == tag and string.byte(v, 4) == 4
  redis.call('SET', lease, own .. (is_alone and '' or '&') .. others, 'PX', lasts)
  return 'GRANTED', expired, epoch
end

local answers = {}
for i = 1, (#KEYS - 2) / 3 do
  local k, a = 3 * i, 3 * i + 2
  local lease, hold_key = KEYS[k + 1], KEYS[k + 2]
  local v, stored, hold = found[k - 2], found[k - 1], found[k]
  -- What was read is old if an earlier request of the step was for this key.
  if asked[lease] then
    v, stored, hold = unpack(redis.call('MGET', KEYS[k], lease, hold_key))
  end
  answers[k - 2], answers[k - 1], answers[k] = acquire(v, stored, hold, lease, hold_key, ARGV[a], ARGV[a + 1], ARGV[a + 2])
  asked[lease] = true
end
return answers
