-- END_LEASES  clock | rnd  ->  stamp
-- All leases that were granted before are void, however many there are. The version is that of no value: what has a
-- lower one was stored before, and what has a higher one was not loaded under a lease from before. Nothing has changed
-- yet, so nothing is published.
local epoch, seq, ver = clock(KEYS[1], ARGV[1])
ver = ver + 1
set_position(KEYS[1], epoch, seq, ver)
redis.call('HSET', KEYS[1], 'leases', struct.pack('>I8I8', epoch, ver))
return struct.pack('>I8I8I8', epoch, ver, time())
