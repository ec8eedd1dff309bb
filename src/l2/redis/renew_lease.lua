-- RENEW_LEASE  lease | token ms channel key  ->  1 if a lease has this token
local leases = read_leases(checked(redis.pcall('GET', KEYS[1]), 'GET'))
for i, lease in ipairs(leases) do
  if lease.token == ARGV[1] then
    if ARGV[2] == '0' then
      table.remove(leases, i)
      end_lease(KEYS[1], lease, leases, ARGV[3], ARGV[4])
    else
      lease.till = time() + ARGV[2]
      store_leases(KEYS[1], leases)
    end
    return 1
  end
end
return 0
