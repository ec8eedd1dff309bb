-- RENEW_LEASE  lease | token lease_ms channel key_text  ->  1 if a lease has this token
local lease_text = checked(redis.pcall('GET', KEYS[1]), 'GET')
local epoch, _, mark, _, others, till = find_lease(lease_text, ARGV[1])
if not epoch then
  return 0
end
if ARGV[2] == '0' then
  end_lease(KEYS[1], mark, others, ARGV[3], ARGV[4])
else
  local ends = string.format('%.0f', time() + ARGV[2])
  local renewed = string.sub(lease_text, 1, till - 1) .. string.gsub(string.sub(lease_text, till), '^%d+', ends)
  local left = others == '' and 0 or redis.call('PTTL', KEYS[1])
  redis.call('SET', KEYS[1], renewed, 'PX', math.max(left, ARGV[2]))
end
return 1
