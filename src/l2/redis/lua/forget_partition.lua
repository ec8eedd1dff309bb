-- FORGET_PARTITION  clock log live stats sweeper worker writes dead bypass | any [id entry]...
--   ->  how many of these keys were removed; nothing if none was, as the partition is used
-- It is used if writes or dead letters are left, and unless `any` is 1, if the list has a member that is not one of
-- these: another one has joined, or one has noted something since.
if has(KEYS[7]) or has(KEYS[8]) then
  return false
end
local ended = {list = true}
for i = 2, #ARGV, 2 do
  ended[ARGV[i]] = ARGV[i + 1]
end
local found = checked(redis.pcall('HGETALL', KEYS[3]), 'HGETALL') or {}
for i = 1, #found, 2 do
  local known = ended[found[i]]
  if ARGV[1] ~= '1' and known ~= true and known ~= found[i + 1] then
    return false
  end
end
return redis.call('DEL', unpack(KEYS))
