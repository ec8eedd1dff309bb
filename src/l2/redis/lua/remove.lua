-- REMOVE  clock value... | (epoch ver)...  ->  for each key '1' if it had a usable value and is removed, else '0'
-- Each key has an epoch and a version of its own, with which its values are compared. A value of this version, or later,
-- stays, and so does one of a later epoch: the epoch is over then, and with it all values of it. If the value of one type
-- has to go, those of others that were loaded since go with it; also if it has expired, as it may be a fallback (rule 18).
local present, _, issued = position(KEYS[1])
local at = time()
local removed = {}
for i = 2, #KEYS do
  local before, below = tonumber(ARGV[2 * i - 3]), tonumber(ARGV[2 * i - 2])
  local is_usable, is_earlier = false, false
  for _, value in ipairs(heads(head_of, KEYS[i])) do
    local ver, expires_at = read_issued(value.head, present, issued)
    if ver then
      is_usable = is_usable or at < expires_at
      is_earlier = is_earlier or present == before and ver < below
    end
  end
  local gone = not is_usable or is_earlier
  if gone then
    redis.call('DEL', KEYS[i])
  end
  removed[i - 1] = is_usable and gone and '1' or '0'
end
return table.concat(removed)
