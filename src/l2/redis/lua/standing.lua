-- The lease of this epoch and token among those that are stored, if it still stands: the version at which it was granted,
-- its marks, and the other leases of the key. The epoch must also be the present one: a restart can bring back a lease that
-- an invalidation had deleted, and a clear deletes none (rule 1).
local function standing(lease_text, clock, present, epoch, token)
  local lease_epoch, since, mark, beside, others = find_lease(lease_text, token)
  if lease_epoch and present == tonumber(epoch) and stands(clock, present, lease_epoch, since) then
    return tonumber(since), mark, beside, others
  end
end
