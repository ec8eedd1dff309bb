-- ACQUIRE_LEASE  value lease hold clock writes | token ms want rnd deadline tag hex  ->  answer, values or lease, number
-- `want` is '' for any value, '*' for none that is stored, '!' for a new load whatever there is, '~' for one that may have
-- expired, or the version of the value that is to be replaced. All of them are about the value with the type tag,
-- which `hex` is in a lease.
local epoch, _, issued = clock(KEYS[4], ARGV[4])
-- MGET answers nil for a value of another type.
local v, stored, hold = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local kept = false
if ARGV[3] ~= '*' and ARGV[3] ~= '!' then
  local ver, expires_at = read_issued(v and find(head_in, v, ARGV[6]) or '', epoch, issued)
  if ver and ver ~= tonumber(ARGV[3]) then
    if ARGV[3] == '~' or time() < expires_at then
      return {'HIT', v, 0}
    end
    -- An expired value that is still stored: the load is given it as the previous one. A refresh has it already.
    kept = ARGV[3] == '' and v
  end
end
-- After the deadline nobody would use the lease.
local at = time()
if ARGV[2] == '0' or ARGV[5] ~= '' and at > tonumber(ARGV[5]) then
  return {'MISS', false, 0}
end
-- A write that waits for its source holds as long as it waits. If it is not in its stream, that was deleted.
local written, till = read_mark(hold)
if written and #(checked(redis.pcall('XRANGE', KEYS[5], written, written), 'XRANGE') or {}) == 0 then
  end_mark(KEYS[3], till, at)
  written, hold = nil, till > at
end
-- Any other hold without a TTL is not one of this crate.
if hold and (written or redis.call('PTTL', KEYS[3]) >= 0) then
  return {'HOLD', false, 0}
end
-- Loads of values with other type tags do not wait for each other.
local mark, others, lasts = '', '', tonumber(ARGV[2])
for lease in string.gmatch(stored or '', '%S+') do
  local of, began, token, tag, ends, waits = string.match(lease, '^(%d+):(%d+):(%d+):(%x+):(%d+)(%+?)')
  local left = ends and ends - at or 0
  if left > 0 and tag ~= ARGV[7] then
    others, lasts = others .. ' ' .. lease, math.max(lasts, left)
  -- A lease that has ended, or one of another epoch, fills nothing any more: this load need not wait for it.
  elseif left > 0 and stands(KEYS[4], epoch, of, began) then
    if ARGV[3] ~= '!' then
      if waits == '' then
        local _, to = string.find(stored, lease, 1, true)
        to = string.sub(lease, -1) == '&' and to - 1 or to
        redis.call('SET', KEYS[2], string.sub(stored, 1, to) .. '+' .. string.sub(stored, to + 1), 'KEEPTTL')
      end
      return {'WAIT', of .. ':' .. token, left}
    end
    mark = waits
  end
end
-- No other copy of the request has this token (rule 1). Loads that wait for a lease that is taken over wait for this one.
local own = string.format('%.0f:%.0f:%s:%s:%.0f', epoch, issued, ARGV[1], ARGV[7], at + ARGV[2]) .. mark
local is_alone = not v or string.sub(v, 81, 88) == ARGV[6] and string.byte(v, 4) == 4
redis.call('SET', KEYS[2], own .. (is_alone and '' or '&') .. others, 'PX', lasts)
return {'GRANTED', kept, epoch}
