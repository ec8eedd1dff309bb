-- ACQUIRE_LEASE  clock writes (value lease hold)... | new_epoch deadline type_tag type_tag_hex (token lease_ms want)...
--   ->  (HIT values 0 | MISS - 0 | HOLD - 0 | WAIT epoch:token ms | GRANTED expired epoch)...
-- Each request is answered as if it came alone, after those before it. `want` is about the value with the type tag.
local clock_key, writes_key = KEYS[1], KEYS[2]
local new_epoch, deadline, type_tag, type_tag_hex = unpack(ARGV, 1, 4)
local COMMON_KEYS, COMMON_ARGS = 2, 4

local ANY, NO_VALUE, NEW_LOAD, EVEN_EXPIRED = '', '*', '!', '~'

local epoch, _, issued = ensure_clock(clock_key, new_epoch)
local now = time()
local epoch_text, issued_text = string.format('%.0f', epoch), string.format('%.0f', issued)
-- After the deadline nobody would use a lease.
local is_late = has_passed(deadline)

-- Whether the stored value is an answer; and whether it has expired, so that it is none but is still stored.
local function look_up(values, want)
  if not values or want == NO_VALUE or want == NEW_LOAD then
    return false, false
  end
  local ver, expires_at = read_issued(find_value(head_in, values, type_tag), epoch, issued)
  if not ver or ver == tonumber(want) then
    return false, false
  end
  local is_valid = now < expires_at
  return is_valid or want == EVEN_EXPIRED, not is_valid
end

-- Whether a hold keeps loads off. A write that waits for its source does so as long as it waits: if it is not in its
-- stream, that was deleted.
local function is_held(hold, hold_key)
  local write, held_until = read_mark(hold)
  if write then
    if #(checked(redis.pcall('XRANGE', writes_key, write, write), 'XRANGE') or {}) > 0 then
      return true
    end
    end_mark(hold_key, held_until, now)
  end
  -- Any other hold without a TTL is not one of this crate.
  return redis.call('PTTL', hold_key) >= 0
end

local function acquire(values, leases, hold, lease_key, hold_key, token, lease_ms, want)
  local is_answer, has_expired = look_up(values, want)
  if is_answer then
    return 'HIT', values, 0
  end
  if lease_ms == '0' or is_late then
    return 'MISS', false, 0
  end
  if hold and is_held(hold, hold_key) then
    return 'HOLD', false, 0
  end
  local awaited, others, ends_at = '', '', now + lease_ms
  local last_end = ends_at
  for lease in string.gmatch(leases or '', '%S+') do
    local its_epoch, granted_at, its_token, its_type, its_end, its_awaited, beside = string.match(lease, LEASE)
    its_end = tonumber(its_end or 0)
    if its_end > now and its_type ~= type_tag_hex then
      -- Loads of values with other type tags do not wait for each other.
      others, last_end = others .. ' ' .. lease, math.max(last_end, its_end)
    elseif its_end > now and stands(clock_key, epoch, its_epoch, granted_at) then
      if want ~= NEW_LOAD then
        if its_awaited ~= AWAITED then
          local awaited_lease = lease_text(its_epoch, granted_at, its_token, its_type, its_end, AWAITED, beside)
          redis.call('SET', lease_key, (string.gsub(leases, '%S+', {[lease] = awaited_lease})), 'KEEPTTL')
        end
        return 'WAIT', its_epoch .. ':' .. its_token, its_end - now
      end
      -- Loads that wait for the lease that is taken over wait for this one.
      awaited = its_awaited
    end
    -- Any other lease fills nothing any more: this load need not wait for it.
  end
  local is_alone = not values or type_tag_of(values) == type_tag and not is_followed(values)
  local beside = is_alone and '' or VALUES_BESIDE
  -- No other copy of the request has this token (rule 1).
  local granted = lease_text(epoch_text, issued_text, token, type_tag_hex, ends_at, awaited, beside)
  redis.call('SET', lease_key, granted .. others, 'PX', last_end - now)
  -- An expired value is given to the load as the previous one. A refresh has it already.
  return 'GRANTED', has_expired and want == ANY and values, epoch
end

-- MGET answers nil for a key of another type.
local found, asked, answers = redis.call('MGET', unpack(KEYS, COMMON_KEYS + 1)), {}, {}
for i = 1, (#KEYS - COMMON_KEYS) / 3 do
  -- The place of the last of the three keys, arguments and parts of the answer of a request.
  local last = 3 * i
  local key, arg = COMMON_KEYS + last, COMMON_ARGS + last
  local lease_key, hold_key = KEYS[key - 1], KEYS[key]
  local values, leases, hold = found[last - 2], found[last - 1], found[last]
  -- What was read is old if an earlier request of the step was for this key.
  if asked[lease_key] then
    values, leases, hold = unpack(redis.call('MGET', KEYS[key - 2], lease_key, hold_key))
  end
  asked[lease_key] = true
  answers[last - 2], answers[last - 1], answers[last] =
    acquire(values, leases, hold, lease_key, hold_key, ARGV[arg - 2], ARGV[arg - 1], ARGV[arg])
end
return answers
