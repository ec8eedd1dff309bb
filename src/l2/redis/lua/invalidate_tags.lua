-- INVALIDATE_TAGS  clock log tag_version... | channel rnd payload  ->  stamp
local epoch, ver = invalidate_tags(KEYS[1], KEYS[2], 3, #KEYS, ARGV[1], ARGV[2], ARGV[3])
return struct.pack('>I8I8I8', epoch, ver, time())
