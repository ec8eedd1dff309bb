-- Values with the tags whose versions are KEYS[first..last] are misses from now on, however many there are, and no load
-- that began before and returns one of them is stored. A tag without a tag version has no values.
local function invalidate_tags(clock_key, log_key, first, last, channel, new_epoch, payload)
  local epoch, ver = publish(clock_key, log_key, channel, new_epoch, payload)
  for i = first, last do
    redis.call('SET', KEYS[i], struct.pack('>I8I8', epoch, ver), 'XX', 'KEEPTTL')
  end
  list_tags(clock_key, first, last, epoch, ver)
  return epoch, ver
end

