-- CLEAR  clock log | channel rnd payload  ->  stamp
-- A new epoch makes every stored value and lease a miss, whatever their number. Nobody goes on from before
-- it; and its message, which is not in the log, may be the one whose number would have the log trimmed.
redis.call('DEL', KEYS[2])
local _, seq, ver = clock(KEYS[1], ARGV[2])
set_position(KEYS[1], ARGV[2], seq, ver)
local epoch, ver = publish(KEYS[1], nil, ARGV[1], ARGV[2], ARGV[3])
return struct.pack('>I8I8I8', epoch, ver, time())
