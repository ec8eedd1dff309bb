-- FILL  clock log lease... value... tag_version... [staged]
--   | channel new_epoch type_tag (token epoch body ttl_ms key_text payload length)...
--   ->  (OK - clock | REJECTED values -)...
-- The first tag versions are those of the first value, then come those of the second, and so on. A value whose body is
-- staged comes alone.
local clock_key, log_key = KEYS[1], KEYS[2]
local channel, new_epoch, type_tag = unpack(ARGV, 1, 3)
local COMMON_KEYS, COMMON_ARGS, ARGS_OF_ONE = 2, 3, 7

local epoch, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
local now, fill_count = time(), (#ARGV - COMMON_ARGS) / ARGS_OF_ONE
-- The first body says whether it is staged; the staged key is the last one then.
local first_staged = #KEYS + (is_staged(ARGV[COMMON_ARGS + 3]) and 0 or 1)
-- The stamp of the values that are stored from now on, and the answer for them.
local value_stamp, answer
-- The leases that are deleted at the end.
local ended_leases = {}

local function make_stamps()
  value_stamp, answer = stamp(epoch, ver, now), clock_answer()
end

-- The values of other types that a value leaves under its key.
local function read_values_beside(value_key)
  local values, kept = checked(redis.pcall('GET', value_key), 'GET') or '', {}
  for _, value in ipairs(heads(head_in, values)) do
    local its_ver, expires_at = read_issued(value.head, epoch, ver)
    if its_ver and now < expires_at and type_tag_of(value.head) ~= type_tag and #kept < MAX_VALUES - 1 then
      kept[#kept + 1] = string.sub(values, value.offset + 5, value.offset + value.length)
    end
  end
  for i, value in ipairs(kept) do
    kept[i] = (i < #kept and 'LRD\132' or 'LRD\4') .. value
  end
  return table.concat(kept)
end

-- Stores a value in front of these of other types.
local function store(value_key, body, ttl_ms, beside, length)
  local has_beside = beside ~= ''
  local ttl_beside = has_beside and redis.call('PTTL', value_key)
  local stamped = has_beside and stamp(epoch, ver, now, true) or value_stamp
  if is_staged(body) then
    put_staged(value_key, stamped, first_staged)
  else
    redis.call('SET', value_key, stamped .. body, 'PX', ttl_ms)
  end
  if has_beside then
    redis.call('SETRANGE', value_key, length, beside)
    redis.call('PEXPIRE', value_key, ttl_beside, 'GT')
  end
end

-- Fills a key, whose tag versions are KEYS[first_tag..last_tag].
local function fill(value_key, lease_key, leases, first_tag, last_tag,
                    token, lease_epoch, body, ttl_ms, key_text, payload, length)
  local granted_at, awaited, values_beside, others = find_standing_lease(leases, clock_key, epoch, lease_epoch, token)
  if not granted_at then
    drop_staged(first_staged)
    return rejected(value_key)
  end
  -- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
  local tags = last_invalidations(clock_key, first_tag, last_tag, epoch, ver)
  if any_after(tags, granted_at) or not are_staged(first_staged) then
    drop_staged(first_staged)
    end_lease(lease_key, awaited, others, channel, key_text)
    return rejected(value_key)
  end
  local beside = ''
  if payload ~= '' then
    epoch, ver, seq = publish(clock_key, log_key, channel, new_epoch, payload)
    nonce = new_epoch
    make_stamps()
    -- Loads of values of other types may have read what this value replaces (rule 29).
    awaited, others = string.find(others, AWAITED, 1, true) and AWAITED or awaited, ''
  else
    -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old. Nor does it make
    -- a value of another type old.
    if values_beside == VALUES_BESIDE then
      beside = read_values_beside(value_key)
    end
    -- One version for all fills of the step.
    if not value_stamp then
      ver = ver + 1
      set_clock(clock_key, epoch, seq, ver, nonce)
      make_stamps()
    end
    if others ~= '' then
      others = string.gsub(string.gsub(others, VALUES_BESIDE, ''), '%S+', '%0' .. VALUES_BESIDE)
    end
  end
  store(value_key, body, ttl_ms, beside, length)
  keep_tag_versions(tags, epoch, ttl_ms)
  if others == '' and awaited == '' then
    ended_leases[#ended_leases + 1] = lease_key
  else
    end_lease(lease_key, awaited, others, channel, key_text)
  end
  return 'OK', false, answer
end

local first_tag, answers = COMMON_KEYS + 2 * fill_count + 1, {}
-- MGET answers nil for a key of another type.
local leases = redis.call('MGET', unpack(KEYS, COMMON_KEYS + 1, COMMON_KEYS + fill_count))
for i = 1, fill_count do
  local last_arg, last_tag = COMMON_ARGS + ARGS_OF_ONE * i, first_tag - 1
  local first_arg = last_arg - ARGS_OF_ONE + 1
  if first_tag < first_staged then
    last_tag = last_tag + count_body_tags(ARGV[first_arg + 2])
  end
  local lease_key, value_key = KEYS[COMMON_KEYS + i], KEYS[COMMON_KEYS + fill_count + i]
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] =
    fill(value_key, lease_key, leases[i], first_tag, last_tag, unpack(ARGV, first_arg, last_arg))
  first_tag = last_tag + 1
end
if #ended_leases > 0 then
  redis.call('DEL', unpack(ended_leases))
end
return answers
