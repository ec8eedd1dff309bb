-- FILL  clock log lease... value... tag_version... [staged]
--   | channel rnd type_tag (token epoch body ttl_ms key_text payload length)...  ->  (OK - stamp | REJECTED values -)...
-- The first tag versions are those of the first value, then come those of the second, and so on. A value whose body is
-- staged comes alone.

-- The values that a value with this type tag leaves under its key.
local function others_of(values, type_tag, epoch, issued, now)
  local others = {}
  for _, value in ipairs(heads(head_in, values)) do
    local ver, expires_at = read_issued(value.head, epoch, issued)
    if ver and now < expires_at and string.sub(value.head, 81, 88) ~= type_tag and #others < MOST_VALUES - 1 then
      others[#others + 1] = string.sub(values, value.offset + 5, value.offset + value.length)
    end
  end
  for i, other in ipairs(others) do
    others[i] = (i < #others and 'LRD\132' or 'LRD\4') .. other
  end
  return table.concat(others)
end

local epoch, seq, ver = clock(KEYS[1], ARGV[2])
local now, fills = time(), (#ARGV - 3) / 7
local staged = #KEYS + (is_staged(ARGV[6]) and 0 or 1)
local stamped, filled
-- The leases that are deleted at the end.
local gone = {}

-- Has the values that are stored from now on this version.
local function issue()
  stamped, filled = stamp(epoch, ver, now), struct.pack('>I8I8I8', epoch, ver, now)
end

-- Fills a key, whose tag versions are KEYS[first..last].
local function fill(value_key, lease_key, lease_text, first, last,
                    token, lease_epoch, body, ttl_ms, key_text, payload, length)
  local since, mark, beside, other_leases = standing(lease_text, KEYS[1], epoch, lease_epoch, token)
  if not since then
    drop_staged(staged)
    return rejected(value_key)
  end
  -- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
  local tags = invalidated(KEYS[1], first, last, epoch, ver)
  if any_after(tags, since) or not are_staged(staged) then
    drop_staged(staged)
    end_lease(lease_key, mark, other_leases, ARGV[1], key_text)
    return rejected(value_key)
  end
  local others = ''
  if payload ~= '' then
    epoch, ver, seq = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], payload)
    issue()
    -- Loads of values of other types may have read what this value replaces (rule 29).
    mark, other_leases = string.find(other_leases, '+', 1, true) and '+' or mark, ''
  else
    -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old. Nor does it make
    -- a value of another type old.
    if beside ~= '' then
      others = others_of(checked(redis.pcall('GET', value_key), 'GET') or '', ARGV[3], epoch, ver, now)
    end
    -- One for all fills of the step.
    if not stamped then
      ver = ver + 1
      set_position(KEYS[1], epoch, seq, ver)
      issue()
    end
    if other_leases ~= '' then
      other_leases = string.gsub(string.gsub(other_leases, '&', ''), '%S+', '%0&')
    end
  end
  local left = others ~= '' and redis.call('PTTL', value_key)
  local stamped = left and stamp(epoch, ver, now, left) or stamped
  if is_staged(body) then
    put_staged(value_key, stamped, staged)
  else
    redis.call('SET', value_key, stamped .. body, 'PX', ttl_ms)
  end
  if left then
    redis.call('SETRANGE', value_key, length, others)
    redis.call('PEXPIRE', value_key, left, 'GT')
  end
  keep_tag_versions(tags, epoch, ttl_ms)
  if other_leases == '' and mark == '' then
    gone[#gone + 1] = lease_key
  else
    end_lease(lease_key, mark, other_leases, ARGV[1], key_text)
  end
  return 'OK', false, filled
end

local answers, first = {}, 3 + 2 * fills
-- MGET answers nil for a key of another type.
local lease_texts = redis.call('MGET', unpack(KEYS, 3, 2 + fills))
for i = 1, fills do
  local first_arg, last = 7 * i - 3, first - 1
  if first < staged then
    last = last + count_tags(ARGV[first_arg + 2])
  end
  local lease_key, value_key = KEYS[2 + i], KEYS[2 + fills + i]
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] =
    fill(value_key, lease_key, lease_texts[i], first, last, unpack(ARGV, first_arg, first_arg + 6))
  first = last + 1
end
if #gone > 0 then
  redis.call('DEL', unpack(gone))
end
return answers
