-- REMAINS  clock log members stats sweeper worker writes dead bypass
--   ->  how many of these keys there are, whether writes or dead letters are left, the list of members as it is stored;
--   reads only
local members_key, writes_key, dead_key = KEYS[3], KEYS[7], KEYS[8]
return {
  redis.call('EXISTS', unpack(KEYS)),
  (has_entry(writes_key) or has_entry(dead_key)) and 1 or 0,
  checked(redis.pcall('HGETALL', members_key), 'HGETALL') or {}
}
