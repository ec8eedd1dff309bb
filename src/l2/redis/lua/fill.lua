-- FILL  clock log lease... value... tag_version... [staged]
--   | channel rnd tag (token epoch body px key payload length)...  ->  (answer, value, stamp)...
-- The first tag versions are those of the first value, then come those of the second, and so on. A value whose body is
-- staged comes alone.

-- The values that a value with this type tag leaves under its key.
local function others_of(values, tag, epoch, issued, at)
  local others = {}
  for _, value in ipairs(heads(head_in, values)) do
    local ver, expires_at = read_issued(value.head, epoch, issued)
    if ver and at < expires_at and string.sub(value.head, 81, 88) ~= tag and #others < MOST_VALUES - 1 then
      others[#others + 1] = string.sub(values, value.at + 5, value.at + value.length)
    end
  end
  for i, other in ipairs(others) do
    others[i] = (i < #others and 'LRD\132' or 'LRD\4') .. other
  end
  return table.concat(others)
end

local epoch, seq, ver = clock(KEYS[1], ARGV[2])
local at, fills = time(), (#ARGV - 3) / 7
local staged = #KEYS + (is_staged(ARGV[6]) and 0 or 1)
local stamped, filled
-- The leases that are deleted at the end.
local gone = {}

-- Has the values that are stored from now on this version.
local function issue()
  stamped, filled = stamp(epoch, ver, at), struct.pack('>I8I8I8', epoch, ver, at)
end

-- Fills a key, whose tag versions are KEYS[first..last].
local function fill(value, lease, stored, first, last, token, of, body, px, key, payload, length)
  local since, mark, beside, leases = standing(stored, KEYS[1], epoch, of, token)
  if not since then
    drop_staged(staged)
    return rejected(value)
  end
  -- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
  local tags = invalidated(KEYS[1], first, last, epoch, ver)
  if any_after(tags, since) or not are_staged(staged) then
    drop_staged(staged)
    end_lease(lease, mark, leases, ARGV[1], key)
    return rejected(value)
  end
  local others = ''
  if payload ~= '' then
    epoch, ver, seq = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], payload)
    issue()
    -- Loads of values of other types may have read what this value replaces (rule 29).
    mark, leases = string.find(leases, '+', 1, true) and '+' or mark, ''
  else
    -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old. Nor does it make
    -- a value of another type old.
    if beside ~= '' then
      others = others_of(checked(redis.pcall('GET', value), 'GET') or '', ARGV[3], epoch, ver, at)
    end
    -- One for all fills of the step.
    if not stamped then
      ver = ver + 1
      set_position(KEYS[1], epoch, seq, ver)
      issue()
    end
    if leases ~= '' then
      leases = string.gsub(string.gsub(leases, '&', ''), '%S+', '%0&')
    end
  end
  local left = others ~= '' and redis.call('PTTL', value)
  local stamped = left and stamp(epoch, ver, at, left) or stamped
  if is_staged(body) then
    put_staged(value, stamped, staged)
  else
    redis.call('SET', value, stamped .. body, 'PX', px)
  end
  if left then
    redis.call('SETRANGE', value, length, others)
    redis.call('PEXPIRE', value, left, 'GT')
  end
  keep_tag_versions(tags, epoch, px)
  if leases == '' and mark == '' then
    gone[#gone + 1] = lease
  else
    end_lease(lease, mark, leases, ARGV[1], key)
  end
  return 'OK', false, filled
end

local answers, first = {}, 3 + 2 * fills
-- MGET answers nil for a key of another type.
local leases = redis.call('MGET', unpack(KEYS, 3, 2 + fills))
for i = 1, fills do
  local a, last = 7 * i - 3, first - 1
  if first < staged then
    last = last + count_tags(ARGV[a + 2])
  end
  local lease, value = KEYS[2 + i], KEYS[2 + fills + i]
  answers[3 * i - 2], answers[3 * i - 1], answers[3 * i] = fill(value, lease, leases[i], first, last, unpack(ARGV, a, a + 6))
  first = last + 1
end
if #gone > 0 then
  redis.call('DEL', unpack(gone))
end
return answers
