-- CLEAR  clock log | channel rnd payload  ->  stamp seq
local epoch, ver = start_epoch(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
local _, seq = position(KEYS[1])
return struct.pack('>I8I8I8I8', epoch, ver, time(), seq)
