-- INVALIDATE_TAGS  clock log tag_version... | channel new_epoch payload  ->  clock
local clock_key, log_key = KEYS[1], KEYS[2]
local channel, new_epoch, payload = unpack(ARGV)
local FIRST_TAG = 3

invalidate_tags(clock_key, log_key, FIRST_TAG, #KEYS, channel, new_epoch, payload)
return clock_answer()
