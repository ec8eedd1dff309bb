-- The clock lists the tags that were invalidated last (rule 20). Other scripts with tags continue this part.

-- How many tags the clock lists.
local LISTED = 64

-- The list: 16 letters of a hash and the version for each tag, the latest at the end; and the version of the last one that
-- it lacks.
local function listed(clock, epoch)
  local list = redis.call('HGET', clock, 'tags')
  if list and #list >= 16 then
    local of, lacking = struct.unpack('>I8I8', list)
    if of == epoch then
      return string.sub(list, 17), lacking
    end
  end
  return '', 0
end

local function short(key)
  return string.sub(redis.sha1hex(key), 1, 16)
end

-- Takes note that these tags were invalidated with this version.
local function list_tags(clock, first, last, epoch, ver)
  local list, lacking = listed(clock, epoch)
  for i = first, last do
    local tag = short(KEYS[i])
    local at = string.find(list, tag, 1, true)
    if at then
      list = string.sub(list, 1, at - 1) .. string.sub(list, at + 24)
    end
    list = list .. tag .. struct.pack('>I8', ver)
  end
  local over = #list - 24 * LISTED
  if over > 0 then
    lacking = struct.unpack('>I8', list, over - 7)
    list = string.sub(list, over + 1)
  end
  redis.call('HSET', clock, 'tags', struct.pack('>I8I8', epoch, lacking) .. list)
end

-- Values with the tags whose versions are KEYS[first..last] are misses from now on, however many there are, and no load
-- that began before and returns one of them is stored. A tag without a tag version has no values.
local function invalidate_tags(clock, log, first, last, channel, rnd, payload)
  local epoch, ver = publish(clock, log, channel, rnd, payload)
  for i = first, last do
    redis.call('SET', KEYS[i], struct.pack('>I8I8', epoch, ver), 'XX', 'KEEPTTL')
  end
  list_tags(clock, first, last, epoch, ver)
  return epoch, ver
end

