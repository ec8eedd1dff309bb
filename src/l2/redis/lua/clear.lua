-- CLEAR  clock log | channel new_epoch payload  ->  clock
local clock_key, log_key = KEYS[1], KEYS[2]
local channel, new_epoch, payload = unpack(ARGV)

start_epoch(clock_key, log_key, channel, new_epoch, payload)
return clock_answer()
