-- FORGET_PARTITION  clock log members stats sweeper worker writes dead bypass | any [id entry]...
--   ->  how many of these keys were removed; nothing if none was, as the partition is used
-- It is used if writes or dead letters are left, and unless `any` is 1, if the list has a member that is not one of
-- these: another one has joined, or one has noted something since.
local members_key, writes_key, dead_key = KEYS[3], KEYS[7], KEYS[8]
local any = ARGV[1]

if has_entry(writes_key) or has_entry(dead_key) then
  return false
end
local ended = {}
for i = 2, #ARGV, 2 do
  ended[ARGV[i]] = ARGV[i + 1]
end
local found = checked(redis.pcall('HGETALL', members_key), 'HGETALL') or {}
for i = 1, #found, 2 do
  local field, entry = found[i], found[i + 1]
  if any ~= '1' and field ~= 'list' and ended[field] ~= entry then
    return false
  end
end
return redis.call('DEL', unpack(KEYS))
