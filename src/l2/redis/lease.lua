-- The leases of a key as they are stored, one for each type tag (rule 29), with a space between two:
-- `epoch:began:token:tag:till`, with the last version that the lane had issued when the lease was granted, and the time at
-- which it ends. A '+' after it means that another load waits for its end, an '&' that there are values of other types, or
-- were: without it a fill need not look.
local LEASE = '(%d+):(%d+):(%d+):(%x+):(%d+)(%+?)(&?)'

local function read_leases(stored)
  local leases = {}
  for epoch, began, token, tag, till, mark, beside in string.gmatch(stored or '', LEASE) do
    local lease = {epoch = tonumber(epoch), began = tonumber(began), token = token, tag = tag, till = tonumber(till)}
    lease.mark, lease.beside = mark, beside
    leases[#leases + 1] = lease
  end
  return leases
end

local function store_leases(key, leases)
  local texts, till = {}, 0
  for i, lease in ipairs(leases) do
    local numbers = string.format('%.0f:%.0f:%s:%s:%.0f', lease.epoch, lease.began, lease.token, lease.tag, lease.till)
    texts[i] = numbers .. lease.mark .. lease.beside
    till = math.max(till, lease.till)
  end
  if #texts == 0 then
    redis.call('DEL', key)
  else
    redis.call('SET', key, table.concat(texts, ' '), 'PXAT', till)
  end
end

-- Whether a lease is of the present epoch, and END_LEASES has not ended it.
local function stands(clock, present, lease)
  if lease.epoch ~= present then
    return false
  end
  local ended = redis.call('HGET', clock, 'leases')
  if ended and #ended == 16 then
    local of, ver = struct.unpack('>I8I8', ended)
    return of ~= present or lease.began >= ver
  end
  return true
end

-- The lease of this epoch and token, if it still stands, and the other leases of the key. The epoch must also be the
-- present one: a restart can bring back a lease that an invalidation had deleted, and a clear deletes none (rule 1).
local function standing(key, clock, present, epoch, token)
  local leases = read_leases(checked(redis.pcall('GET', key), 'GET'))
  for i, lease in ipairs(leases) do
    if lease.token == token and present == tonumber(epoch) and stands(clock, present, lease) then
      table.remove(leases, i)
      return lease, leases
    end
  end
end

-- The answer to a fill that is not stored: the values that are.
local function rejected(key)
  local v = checked(redis.pcall('GET', key), 'GET')
  return {'REJECTED', type(v) == 'string' and v, false}
end

-- Removes a lease, so that the others are left, and publishes a notice if another load waits for its end. A notice has no
-- number and may be lost.
local function end_lease(key, lease, others, channel, of)
  store_leases(key, others)
  if lease.mark == '+' then
    send(channel, 'LE\1' .. of)
  end
end
