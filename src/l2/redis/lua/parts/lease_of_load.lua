-- The lease of a load, by its token.

-- The text of the other leases of the key, and the fields of the lease with a token; only the former if there is none, or
-- its time is over.
local function find_lease(leases, token)
  local others, epoch, granted_at, type_tag_hex, awaited, values_beside = ''
  for lease in string.gmatch(leases or '', '%S+') do
    local its_epoch, its_granted_at, its_token, its_type_tag_hex, ends_at, its_awaited, its_values_beside =
      string.match(lease, LEASE)
    if its_token == token and tonumber(ends_at) > time() then
      epoch, granted_at, type_tag_hex = its_epoch, its_granted_at, its_type_tag_hex
      awaited, values_beside = its_awaited, its_values_beside
    else
      others = others == '' and lease or others .. ' ' .. lease
    end
  end
  return others, epoch, granted_at, type_tag_hex, awaited, values_beside
end

-- At which version the lease with this epoch and token was granted, its signs, and the text of the other leases; nil if it
-- does not stand any more. The epoch must also be the present one: a restart can bring back a lease that an invalidation
-- had deleted, and a clear deletes none (rule 1).
local function find_standing_lease(leases, clock_key, present_epoch, lease_epoch, token)
  local others, epoch, granted_at, _, awaited, values_beside = find_lease(leases, token)
  if epoch and present_epoch == tonumber(lease_epoch) and stands(clock_key, present_epoch, epoch, granted_at) then
    return tonumber(granted_at), awaited, values_beside, others
  end
end

-- The answer to a fill that is not stored: the values that are.
local function rejected(value_key)
  local values = checked(redis.pcall('GET', value_key), 'GET')
  return 'REJECTED', type(values) == 'string' and values, false
end

-- Ends a lease of a key: leaves the others, and publishes a notice if another load waits. A notice has no number and may
-- be lost.
local function end_lease(lease_key, awaited, others, channel, key_text)
  if others == '' then
    redis.call('DEL', lease_key)
  else
    redis.call('SET', lease_key, others, 'KEEPTTL')
  end
  if awaited == AWAITED then
    send(channel, 'LE\1' .. key_text)
  end
end
