-- INVALIDATE_TAGS  clock log marker... | channel rnd payload  ->  stamp
-- Values with these tags are misses from now on, however many there are, and no load that began before and returns one of
-- them is stored. A tag without a marker has no values.
local epoch, ver = publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
for i = 3, #KEYS do
  redis.call('SET', KEYS[i], struct.pack('>I8I8', epoch, ver), 'XX', 'KEEPTTL')
end
list_tags(KEYS[1], 3, #KEYS, epoch, ver)
return struct.pack('>I8I8I8', epoch, ver, time())
