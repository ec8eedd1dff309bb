-- END_LEASES  clock log | channel rnd payload  ->  stamp
-- All leases that were granted before are void, however many there are. The version is that of no value: what has a lower
-- one was stored before, and what has a higher one was not loaded under a lease from before. The message is for what reads
-- the log: values that were read before the removal of a prefix, and have their leases from after this step (rule 23).
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
redis.call('HSET', KEYS[1], 'leases', struct.pack('>I8I8', epoch, ver))
return struct.pack('>I8I8I8', epoch, ver, time())
