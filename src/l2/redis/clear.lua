-- CLEAR  clock log | channel rnd payload  ->  stamp
local epoch, ver = start_epoch(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
return struct.pack('>I8I8I8', epoch, ver, time())
