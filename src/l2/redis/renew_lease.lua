-- RENEW_LEASE  lease | token ms channel key  ->  1 if the lease has this token
local held, mark = read_lease(checked(redis.pcall('GET', KEYS[1]), 'GET'))
if string.match(held, ':(%d+)$') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  end_lease(KEYS[1], mark, ARGV[3], ARGV[4])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
