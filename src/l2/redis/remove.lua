-- REMOVE  clock value... | epoch ver  ->  how many usable values were removed
-- Values of this epoch and version, or later, stay, and so do those of a later epoch: the epoch is over then, and with it
-- all values of it.
local present = position(KEYS[1])
local at, before = time(), tonumber(ARGV[1])
local removed = 0
for i = 2, #KEYS do
  local epoch, ver, expires_at = read_stamp(head_of(KEYS[i]))
  local usable = epoch and epoch == present and at < expires_at
  if not usable or (epoch == before and ver < tonumber(ARGV[2])) then
    redis.call('DEL', KEYS[i])
    removed = removed + (usable and 1 or 0)
  end
end
return removed
