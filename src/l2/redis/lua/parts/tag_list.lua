-- The clock lists the tags that were invalidated last (rule 20). Other scripts with tags continue this part.

-- How many tags the clock lists.
local LISTED_TAGS = 64
-- A tag in the list: letters of a hash, and a version.
local TAG_HASH_LENGTH, LISTED_TAG_LENGTH = 16, 24

-- The list, with the tag that was invalidated last at the end; and the version of the last invalidation that the list
-- lacks.
local function read_tag_list(clock_key, present_epoch)
  local stored = redis.call('HGET', clock_key, 'tags')
  if stored and #stored >= 16 then
    local epoch, last_lacking = struct.unpack('>I8I8', stored)
    if epoch == present_epoch then
      return string.sub(stored, 17), last_lacking
    end
  end
  return '', 0
end

local function tag_hash(tag_key)
  return string.sub(redis.sha1hex(tag_key), 1, TAG_HASH_LENGTH)
end

-- Takes note that the tags KEYS[first..last] were invalidated with this version.
local function list_tags(clock_key, first, last, epoch, ver)
  local list, last_lacking = read_tag_list(clock_key, epoch)
  for i = first, last do
    local hash = tag_hash(KEYS[i])
    local from = string.find(list, hash, 1, true)
    if from then
      list = string.sub(list, 1, from - 1) .. string.sub(list, from + LISTED_TAG_LENGTH)
    end
    list = list .. hash .. struct.pack('>I8', ver)
  end
  local over = #list - LISTED_TAG_LENGTH * LISTED_TAGS
  if over > 0 then
    last_lacking = struct.unpack('>I8', list, over - 7)
    list = string.sub(list, over + 1)
  end
  redis.call('HSET', clock_key, 'tags', struct.pack('>I8I8', epoch, last_lacking) .. list)
end

