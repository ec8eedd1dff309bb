-- The leases of a key as they are stored, one for each type tag (rule 29), with a space between two:
-- `epoch:since:token:tag:till`, with the last version that the partition had issued when the lease was granted, and the
-- time at which it ends. A '+' after it means that another load waits for its end, then an '&' that the key may have values
-- of other types: a fill looks for such values only if it is there.

-- What END_LEASES has stored, once it was read.
local ended

-- Whether a lease that was granted at the version `since` is of the present epoch, and END_LEASES has not ended it.
local function stands(clock, present, epoch, since)
  if tonumber(epoch) ~= present then
    return false
  end
  ended = ended or redis.call('HGET', clock, 'leases') or ''
  if #ended == 16 then
    local its_epoch, ver = struct.unpack('>I8I8', ended)
    return its_epoch ~= present or tonumber(since) >= ver
  end
  return true
end

-- The lease with a token: epoch and version at which it was granted, its marks, the other leases of the key, and where its
-- end is in the text. Nothing if there is none, or its time is over: the key lasts as long as the last of its leases.
local function find_lease(lease_text, token)
  local pattern = '(%d+):(%d+):' .. token .. ':%x+:()%d+(%+?)(&?)()'
  local from, _, epoch, since, till, mark, beside, to = string.find(lease_text or '', pattern)
  if from and tonumber(string.match(lease_text, '^%d+', till)) > time() then
    -- With the space before it, or after the first one.
    local others = string.sub(lease_text, 1, math.max(from - 2, 0)) .. string.sub(lease_text, from == 1 and to + 1 or to)
    return epoch, since, mark, beside, others, till
  end
end

-- The answer to a fill that is not stored: the values that are.
local function rejected(value_key)
  local value = checked(redis.pcall('GET', value_key), 'GET')
  return 'REJECTED', type(value) == 'string' and value, false
end

-- Leaves the others of the leases of a key, and publishes a notice if another load waits for the end of this one. A notice
-- has no number and may be lost.
local function end_lease(lease_key, mark, others, channel, key_text)
  if others == '' then
    redis.call('DEL', lease_key)
  else
    redis.call('SET', lease_key, others, 'KEEPTTL')
  end
  if mark == '+' then
    send(channel, 'LE\1' .. key_text)
  end
end
