-- A tag version holds the epoch and the version of the last invalidation of a tag. It exists for as long as any value
-- with the tag; without it these values are misses. The clock lists the tags that were invalidated last, whether or not
-- they have a tag version: so a tag version that is missing can be made again (rule 20).

-- The numbers in the tag versions KEYS[first..last]; false where there is none of this epoch, or only one above `highest`.
-- Without keys there are none.
local function tag_versions(first, last, present_epoch, highest)
  if first > last then
    return {}
  end
  local versions = redis.call('MGET', unpack(KEYS, first, last))
  for i, tag_version in ipairs(versions) do
    local epoch, ver
    if tag_version and #tag_version == 16 then
      epoch, ver = struct.unpack('>I8I8', tag_version)
    end
    versions[i] = epoch == present_epoch and ver <= highest and ver
  end
  return versions
end

-- When each of the tags KEYS[first..last] was invalidated last: by its tag version; where there is none that the partition
-- has issued, the number is the version of the last invalidation or a later one.
local function last_invalidations(clock_key, first, last, epoch, issued)
  local tags = {}
  local list, last_lacking
  for i, ver in ipairs(tag_versions(first, last, epoch, issued)) do
    local tag_key = KEYS[first + i - 1]
    if not ver and not list then
      list, last_lacking = read_tag_list(clock_key, epoch)
    end
    local from = not ver and string.find(list, tag_hash(tag_key), 1, true)
    tags[i] = {
      key = tag_key,
      exists = ver,
      ver = ver or from and struct.unpack('>I8', list, from + TAG_HASH_LENGTH) or last_lacking
    }
  end
  return tags
end

-- Whether one of the tags was invalidated after this version.
local function any_after(tags, ver)
  for _, tag in ipairs(tags) do
    if tag.ver > ver then
      return true
    end
  end
  return false
end

-- Has the tag versions exist for `ttl_ms` at least, as long as a value, and makes those that are missing.
local function keep_tag_versions(tags, epoch, ttl_ms)
  for _, tag in ipairs(tags) do
    if tag.exists then
      redis.call('PEXPIRE', tag.key, ttl_ms, 'GT')
    else
      redis.call('SET', tag.key, struct.pack('>I8I8', epoch, tag.ver), 'PX', ttl_ms)
    end
  end
end

-- Whether a value of this version is valid by the tag versions KEYS[first..last]: all are there, and none is later.
local function is_valid(first, last, epoch, ver)
  for _, tag_ver in ipairs(tag_versions(first, last, epoch, ver)) do
    if not tag_ver then
      return false
    end
  end
  return true
end
