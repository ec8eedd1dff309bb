-- ACQUIRE_LEASE  clock writes (value lease hold)... | rnd deadline type_tag hex (token lease_ms want)...
--   ->  (HIT values 0 | MISS - 0 | HOLD - 0 | WAIT epoch:token ms | GRANTED expired epoch)...
-- Each request is answered as if it came alone, after those before it.
-- `want` is '' for any value, '*' for none that is stored, '!' for a new load whatever there is, '~' for one that may have
-- expired, or the version of the value that is to be replaced. All of them are about the value with the type tag,
-- which `hex` is in a lease.
local epoch, _, issued = clock(KEYS[1], ARGV[1])
local now, type_tag, type_tag_hex = time(), ARGV[3], ARGV[4]
-- After the deadline nobody would use a lease.
local is_late = ARGV[2] ~= '' and now > tonumber(ARGV[2])
local began_at = string.format('%.0f:%.0f:', epoch, issued)
-- MGET answers nil for a value of another type.
local found, asked = redis.call('MGET', unpack(KEYS, 3)), {}

local function acquire(value, lease_text, hold, lease_key, hold_key, token, lease_ms, want)
  local expired = false
  if value and want ~= '*' and want ~= '!' then
    local ver, expires_at = read_issued(find(head_in, value, type_tag), epoch, issued)
    if ver and ver ~= tonumber(want) then
      if want == '~' or now < expires_at then
        return 'HIT', value, 0
      end
      -- An expired value that is still stored: the load is given it as the previous one. A refresh has it already.
      expired = want == '' and value
    end
  end
  if lease_ms == '0' or is_late then
    return 'MISS', false, 0
  end
  if hold then
    -- A write that waits for its source holds as long as it waits. If it is not in its stream, that was deleted.
    local written, till = read_mark(hold)
    if written and #(checked(redis.pcall('XRANGE', KEYS[2], written, written), 'XRANGE') or {}) == 0 then
      end_mark(hold_key, till, now)
      written, hold = nil, till > now
    end
    -- Any other hold without a TTL is not one of this crate.
    if hold and (written or redis.call('PTTL', hold_key) >= 0) then
      return 'HOLD', false, 0
    end
  end
  -- Loads of values with other type tags do not wait for each other.
  local mark, others, lasts = '', '', tonumber(lease_ms)
  for other in string.gmatch(lease_text or '', '%S+') do
    local lease_epoch, since, owner, lease_type_tag, ends, waits =
      string.match(other, '^(%d+):(%d+):(%d+):(%x+):(%d+)(%+?)')
    local left = ends and ends - now or 0
    if left > 0 and lease_type_tag ~= type_tag_hex then
      others, lasts = others .. ' ' .. other, math.max(lasts, left)
    -- A lease that has ended, or one of another epoch, fills nothing any more: this load need not wait for it.
    elseif left > 0 and stands(KEYS[1], epoch, lease_epoch, since) then
      if want ~= '!' then
        if waits == '' then
          local _, to = string.find(lease_text, other, 1, true)
          to = string.sub(other, -1) == '&' and to - 1 or to
          redis.call('SET', lease_key, string.sub(lease_text, 1, to) .. '+' .. string.sub(lease_text, to + 1), 'KEEPTTL')
        end
        return 'WAIT', lease_epoch .. ':' .. owner, left
      end
      mark = waits
    end
  end
  -- No other copy of the request has this token (rule 1). Loads that wait for a lease that is taken over wait for this one.
  local granted = began_at .. token .. ':' .. type_tag_hex .. string.format(':%.0f', now + lease_ms) .. mark
  local is_alone = not value or string.sub(value, 81, 88) == type_tag and string.byte(value, 4) == 4
  redis.call('SET', lease_key, granted .. (is_alone and '' or '&') .. others, 'PX', lasts)
  return 'GRANTED', expired, epoch
end

local answers = {}
for i = 1, (#KEYS - 2) / 3 do
  local last_key, first_arg = 3 * i, 3 * i + 2
  local lease_key, hold_key = KEYS[last_key + 1], KEYS[last_key + 2]
  local value, lease_text, hold = found[last_key - 2], found[last_key - 1], found[last_key]
  -- What was read is old if an earlier request of the step was for this key.
  if asked[lease_key] then
    value, lease_text, hold = unpack(redis.call('MGET', KEYS[last_key], lease_key, hold_key))
  end
  answers[last_key - 2], answers[last_key - 1], answers[last_key] =
    acquire(value, lease_text, hold, lease_key, hold_key, ARGV[first_arg], ARGV[first_arg + 1], ARGV[first_arg + 2])
  asked[lease_key] = true
end
return answers
