-- REMOVE  clock value... | (epoch ver)...  ->  for each value '1' if it was usable and is removed, else '0'
-- Each value has an epoch and a version of its own, with which it is compared. One of this version, or later, stays, and so
-- does one of a later epoch: the epoch is over then, and with it all values of it.
local present = position(KEYS[1])
local at = time()
local removed = {}
for i = 2, #KEYS do
  local before, below = tonumber(ARGV[2 * i - 3]), tonumber(ARGV[2 * i - 2])
  local epoch, ver, expires_at = read_stamp(head_of(KEYS[i]))
  local usable = epoch and epoch == present and at < expires_at
  local gone = not usable or (epoch == before and ver < below)
  if gone then
    redis.call('DEL', KEYS[i])
  end
  removed[i - 1] = usable and gone and '1' or '0'
end
return table.concat(removed)
