-- ACQUIRE_LEASE  value lease hold clock writes | token ms want rnd deadline  ->  answer, value or lease, number
-- `want` is '' for any value, '*' for none that is stored, '!' for a new load whatever there is, '~' for one that may have
-- expired, or the version of the value that is to be replaced.
local epoch, _, issued = clock(KEYS[4], ARGV[4])
-- MGET answers nil for a value of another type.
local v, stored, hold = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local kept = false
if ARGV[3] ~= '*' and ARGV[3] ~= '!' then
  local of, ver, expires_at = read_stamp(v)
  -- A version that the lane has not issued would outlive invalidations in L1 (rule 11).
  if of == epoch and ver <= issued and ver ~= tonumber(ARGV[3]) then
    if ARGV[3] == '~' or time() < expires_at then
      return {'HIT', v, 0}
    end
    -- An expired value that is still stored: the load is given it as the previous one. A refresh has it already.
    kept = ARGV[3] == '' and v
  end
end
-- After the deadline nobody would use the lease.
if ARGV[2] == '0' or ARGV[5] ~= '' and time() > tonumber(ARGV[5]) then
  return {'MISS', false, 0}
end
-- A write that waits for its source holds as long as it waits. If it is not in its stream, that was deleted.
local written, till = read_mark(hold)
if written and #(checked(redis.pcall('XRANGE', KEYS[5], written, written), 'XRANGE') or {}) == 0 then
  end_mark(KEYS[3], till, time())
  written, hold = nil, till > time()
end
-- Any other hold, or a lease, without a TTL is not one of this crate.
if hold and (written or redis.call('PTTL', KEYS[3]) >= 0) then
  return {'HOLD', false, 0}
end
-- A lease that has ended, or one of another epoch, fills nothing any more: this load need not wait for it.
local held, mark = read_lease(stored)
local left = redis.call('PTTL', KEYS[2])
if left < 0 or not began(KEYS[4], epoch, held) then
  mark = ''
elseif ARGV[3] ~= '!' then
  if mark == '' then
    redis.call('SET', KEYS[2], held .. '+', 'KEEPTTL')
  end
  return {'WAIT', held, left}
end
-- No other copy of the request has this token (rule 1). Loads that wait for a lease that is taken over wait for this one.
redis.call('SET', KEYS[2], lease(epoch, issued, ARGV[1]) .. mark, 'PX', ARGV[2])
return {'GRANTED', kept, epoch}
