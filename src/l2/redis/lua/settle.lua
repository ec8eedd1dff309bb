-- SETTLE  worker writes dead clock log (value lease hold)...
--     | fence channel rnd head failed reason keys (key last stored)... id...
--   ->  1, or 0 if the fence is another worker's
-- Removes entries, to the dead letters if they have `failed` ('1'), and ends the marks of their keys: a load may be stored
-- from here on. Invalidates their values in the same step. A value stays if the last write of its key stored it and the
-- source has exactly this value (`stored` = '1', rule 24). `last` is the newest id of each key; if the mark names a newer
-- one, the key is left alone. `head` is how the message begins that names the keys that were invalidated.
local fence = checked(redis.pcall('GET', KEYS[1]), 'GET')
if fence and fence ~= ARGV[1] then
  return 0
end
local at, keys = time(), tonumber(ARGV[7])
for i = 8 + 3 * keys, #ARGV do
  local found = ARGV[5] == '1' and redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if found then
    local f = fields(found)
    add(KEYS[3], at, 'k', f.k, 'i', f.i, 'b', f.b, 'v', f.v or ARGV[i], 'e', ARGV[6])
  end
  redis.call('XDEL', KEYS[2], ARGV[i])
end
local present, invalidated = position(KEYS[4]), {}
for i = 1, keys do
  local value, lease, hold = KEYS[3 + 3 * i], KEYS[4 + 3 * i], KEYS[5 + 3 * i]
  local key, last, stored = ARGV[5 + 3 * i], ARGV[6 + 3 * i], ARGV[7 + 3 * i]
  local id, till, epoch, ver = read_mark(checked(redis.pcall('GET', hold), 'GET'))
  if not id or is_up_to(id, last) then
    if id then
      end_mark(hold, till, at)
    end
    local is_there = false
    if stored == '1' and id == last and epoch == present then
      -- APPEND stores it alone, and no load is stored beside it while the mark is there: so it is in front, or gone.
      is_there = read_issued(head_of(value, 0), epoch, ver) == ver
    end
    -- No version is issued twice, so a value with this one is the one that was given to the source.
    if not is_there then
      redis.call('DEL', value, lease)
      invalidated[#invalidated + 1] = struct.pack('>I2', #key) .. key
    end
  end
end
if #invalidated > 0 then
  local payload = ARGV[4] .. struct.pack('>I2', #invalidated) .. table.concat(invalidated)
  publish(KEYS[4], KEYS[5], ARGV[2], ARGV[3], payload)
end
return 1
