-- REMOVE  clock value... | (epoch ver)...  ->  for each key '1' if it had a usable value and is removed, else '0'
-- Each key has an epoch and a version of its own, with which its values are compared. A value of this version, or later,
-- stays, and so does one of a later epoch: the epoch is over then, and with it all values of it. If the value of one type
-- has to go, those of others that were loaded since go with it; also if it has expired, as it may be a fallback (rule 18).
local present_epoch, _, issued = read_clock(KEYS[1])
local now = time()
local answers = {}
for i = 1, #KEYS - 1 do
  local value_key = KEYS[1 + i]
  local epoch, ver = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local is_usable, is_earlier = false, false
  for _, value in ipairs(heads(head_of, value_key)) do
    local its_ver, expires_at = read_issued(value.head, present_epoch, issued)
    if its_ver then
      is_usable = is_usable or now < expires_at
      is_earlier = is_earlier or present_epoch == epoch and its_ver < ver
    end
  end
  local is_removed = not is_usable or is_earlier
  if is_removed then
    redis.call('DEL', value_key)
  end
  answers[i] = is_usable and is_removed and '1' or '0'
end
return table.concat(answers)
