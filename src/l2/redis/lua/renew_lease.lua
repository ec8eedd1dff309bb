-- RENEW_LEASE  lease | token lease_ms channel key_text  ->  1 if a lease has this token; ends it if `lease_ms` is 0
local lease_key = KEYS[1]
local token, lease_ms, channel, key_text = unpack(ARGV)

local leases = checked(redis.pcall('GET', lease_key), 'GET')
local others, epoch, granted_at, type_tag_hex, awaited, values_beside = find_lease(leases, token)
if not epoch then
  return 0
end
if lease_ms == '0' then
  end_lease(lease_key, awaited, others, channel, key_text)
else
  local renewed = lease_text(epoch, granted_at, token, type_tag_hex, time() + lease_ms, awaited, values_beside)
  local left = others == '' and 0 or redis.call('PTTL', lease_key)
  redis.call('SET', lease_key, renewed .. ' ' .. others, 'PX', math.max(left, lease_ms))
end
return 1
