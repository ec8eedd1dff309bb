-- RENEW  lease | token ms  ->  1 if it was ours
local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' or string.match(held, ':(%d+)$') ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
