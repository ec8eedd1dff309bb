-- END_LEASES  clock | new_epoch  ->  clock
-- All leases that were granted before are void, however many there are. The version is that of no value: what has a
-- lower one was stored before, and what has a higher one was not loaded under a lease from before. Nothing has changed
-- yet, so nothing is published.
local clock_key, new_epoch = KEYS[1], ARGV[1]

local epoch, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
ver = ver + 1
set_clock(clock_key, epoch, seq, ver, nonce)
redis.call('HSET', clock_key, 'leases', struct.pack('>I8I8', epoch, ver))
return clock_answer()
