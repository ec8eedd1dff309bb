-- A tag version holds the epoch and the version of the last invalidation of a tag. It exists for as long as any value
-- with the tag; without it these values are misses. The clock lists the tags that were invalidated last, whether or not
-- they have a tag version: so a tag version that is missing can be made again (rule 20).

-- The numbers in the tag versions KEYS[first..last]; false where there is none of this epoch, or only one that the
-- partition has not issued. Without keys there are none.
local function tag_versions(first, last, epoch, issued)
  if first > last then
    return {}
  end
  local versions = redis.call('MGET', unpack(KEYS, first, last))
  for i, tag_version in ipairs(versions) do
    local of, ver
    if tag_version and #tag_version == 16 then
      of, ver = struct.unpack('>I8I8', tag_version)
    end
    versions[i] = of == epoch and ver <= issued and ver
  end
  return versions
end

-- When each of these tags was invalidated last: by its tag version; where there is none, the number is the version of
-- the last invalidation or a later one.
local function invalidated(clock, first, last, epoch, issued)
  local tags = {}
  local list, lacking
  for i, ver in ipairs(tag_versions(first, last, epoch, issued)) do
    local key = KEYS[first + i - 1]
    if not ver and not list then
      list, lacking = listed(clock, epoch)
    end
    local at = not ver and string.find(list, short(key), 1, true)
    tags[i] = {
      key = key,
      exists = ver,
      ver = ver or at and struct.unpack('>I8', list, at + 16) or lacking
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

-- Has the tag versions exist for `px` ms at least, as long as a value, and makes those that are missing.
local function keep_tag_versions(tags, epoch, px)
  for _, tag in ipairs(tags) do
    if tag.exists then
      redis.call('PEXPIRE', tag.key, px, 'GT')
    else
      redis.call('SET', tag.key, struct.pack('>I8I8', epoch, tag.ver), 'PX', px)
    end
  end
end

-- How many tags a value may have.
local MOST_TAGS = 128

-- How many tags there are from a place in a text to its end; nil if they are damaged.
local function count(text, at)
  local many = 0
  while at < #text and many < MOST_TAGS do
    at = at + 2 + struct.unpack('>I2', text, at)
    many = many + 1
  end
  return at == #text + 1 and many or nil
end

-- The tags of a stored value, as they follow its payload; nil if they are damaged.
local function tags_of(key, head, place)
  local length, to = struct.unpack('>I2', head, 79), place + length_of(head)
  local tags = length == 0 and '' or redis.call('GETRANGE', key, to - length, to - 1)
  return count(tags, 1) and tags
end

-- Whether a value of this version is valid by the tag versions KEYS[first..last]: all are there, and none is later.
local function is_valid(first, last, epoch, ver)
  for _, at in ipairs(tag_versions(first, last, epoch, ver)) do
    if not at then
      return false
    end
  end
  return true
end

-- How many tag versions follow in KEYS for a body. In the place of a body that is staged, the caller sends the number.
local function count_tags(body)
  return is_staged(body) and tonumber(body) or count(body, #body - struct.unpack('>I2', body, 43) + 1)
end
