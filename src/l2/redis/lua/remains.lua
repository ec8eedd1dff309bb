-- REMAINS  clock log live stats sweeper worker writes dead bypass  ->  how many of these keys there are, whether writes or
-- dead letters are left, the list of members as it is stored; reads only
return {
  redis.call('EXISTS', unpack(KEYS)),
  (has(KEYS[7]) or has(KEYS[8])) and 1 or 0,
  checked(redis.pcall('HGETALL', KEYS[3]), 'HGETALL') or {}
}
