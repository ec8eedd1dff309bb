-- CLEAR  clock log | channel rnd payload  ->  stamp
-- A new epoch makes every stored value and lease a miss, however many there are. The log is deleted as well: no instance
-- replays messages from before a clear. The clear's own message is not logged, and every hundredth message trims the
-- log, so a log that was kept could grow without bound if these were all clears.
redis.call('DEL', KEYS[2])
local _, seq, ver = clock(KEYS[1], ARGV[2])
set_position(KEYS[1], ARGV[2], seq, ver)
local epoch, ver = publish(KEYS[1], nil, ARGV[1], ARGV[2], ARGV[3])
return struct.pack('>I8I8I8', epoch, ver, time())
