-- ACQUIRE_LEASE  value lease hold clock writes | token ms want rnd deadline tag  ->  answer, values or lease, number
-- `want` is '' for any value, '*' for none that is stored, '!' for a new load whatever there is, '~' for one that may have
-- expired, or the version of the value that is to be replaced. All of them are about the value with the type tag.
local epoch, _, issued = clock(KEYS[4], ARGV[4])
-- MGET answers nil for a value of another type.
local v, stored, hold = unpack(redis.call('MGET', KEYS[1], KEYS[2], KEYS[3]))
local kept = false
if ARGV[3] ~= '*' and ARGV[3] ~= '!' then
  local of, ver, expires_at = read_stamp(find(head_in, v, ARGV[6]))
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
local tag = string.format('%08x%08x', struct.unpack('>I4I4', ARGV[6]))
local leases, mark, others = read_leases(stored), '', {}
for _, lease in ipairs(leases) do
  if lease.tag ~= tag then
    if lease.till > at and #others < MOST_VALUES - 1 then
      others[#others + 1] = lease
    end
  -- A lease that has ended, or one of another epoch, fills nothing any more: this load need not wait for it.
  elseif lease.till > at and stands(KEYS[4], epoch, lease) then
    if ARGV[3] ~= '!' then
      if lease.mark == '' then
        lease.mark = '+'
        store_leases(KEYS[2], leases)
      end
      return {'WAIT', string.format('%.0f:%s', lease.epoch, lease.token), lease.till - at}
    end
    mark = lease.mark
  end
end
-- No other copy of the request has this token (rule 1). Loads that wait for a lease that is taken over wait for this one.
local own = {epoch = epoch, began = issued, token = ARGV[1], tag = tag, till = at + ARGV[2], mark = mark}
local is_alone = not v or tag_in(v) == ARGV[6] and string.byte(v, 4) == 4
own.beside = is_alone and '' or '&'
table.insert(others, 1, own)
store_leases(KEYS[2], others)
return {'GRANTED', kept, epoch}
