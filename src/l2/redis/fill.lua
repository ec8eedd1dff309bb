-- FILL  value lease clock log tag_version... [staged] | token epoch body kept rnd channel key payload tag length
--   ->  answer, value, stamp
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

local staged = #KEYS + (is_staged(ARGV[3]) and 0 or 1)
local epoch, seq, ver = clock(KEYS[3], ARGV[5])
local began, mark, beside, leases = standing(KEYS[2], KEYS[3], epoch, ARGV[2], ARGV[1])
if not began then
  drop_staged(staged)
  return rejected(KEYS[1])
end
-- No value is stored that was loaded before an invalidation of one of its tags (rule 20).
local tags = invalidated(KEYS[3], 5, staged - 1, epoch, ver)
if any_after(tags, began) or not are_staged(staged) then
  drop_staged(staged)
  end_lease(KEYS[2], mark, leases, ARGV[6], ARGV[7])
  return rejected(KEYS[1])
end
local at, others = time(), ''
if ARGV[8] ~= '' then
  epoch, ver = publish(KEYS[3], KEYS[4], ARGV[6], ARGV[5], ARGV[8])
  -- Loads of values of other types may have read what this value replaces (rule 29).
  mark, leases = string.find(leases, '+', 1, true) and '+' or mark, ''
else
  -- A fill takes a version and publishes no message: no instance holds a value that the fill makes old. Nor does it make
  -- a value of another type old.
  if beside ~= '' then
    others = others_of(checked(redis.pcall('GET', KEYS[1]), 'GET') or '', ARGV[9], epoch, ver, at)
  end
  ver = ver + 1
  set_position(KEYS[3], epoch, seq, ver)
  if leases ~= '' then
    leases = string.gsub(string.gsub(leases, '&', ''), '%S+', '%0&')
  end
end
local left = others ~= '' and redis.call('PTTL', KEYS[1])
put(KEYS[1], stamp(epoch, ver, at, left), ARGV[3], ARGV[4], staged)
if left then
  redis.call('SETRANGE', KEYS[1], ARGV[10], others)
  redis.call('PEXPIRE', KEYS[1], left, 'GT')
end
keep_tag_versions(tags, epoch, ARGV[4])
end_lease(KEYS[2], mark, leases, ARGV[6], ARGV[7])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
