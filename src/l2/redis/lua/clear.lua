-- CLEAR  clock log | channel new_epoch payload  ->  stamp seq
local clock_key, log_key = KEYS[1], KEYS[2]
local channel, new_epoch, payload = unpack(ARGV)

local epoch, ver, seq = start_epoch(clock_key, log_key, channel, new_epoch, payload)
return stamp_answer(epoch, ver) .. struct.pack('>I8', seq)
