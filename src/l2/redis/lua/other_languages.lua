-- How many keys, and how many tags, one call takes: as many as one message of an instance names.
local MAX_NAMES = 256
local MAX_BYTES = 1024
-- The kinds of messages: what they name is invalidated.
local KEYS_KIND, CLEAR_KIND, TAGS_KIND = 0, 2, 4

local function refuse(why)
  error({err = 'ERR larder: ' .. why})
end

local clock_key, log_key = KEYS[1] or '', KEYS[2]
local partition = string.match(clock_key, '^([^{}]*{[^{}]+%.0})!clock$')
  or string.match(clock_key, '^([^{}]*{[^{}]+%.%d+of%d+%.%d+})!clock$')
if not partition or log_key ~= partition .. '!log' then
  refuse('the first two keys must be {NAMESPACE.0}!clock and {NAMESPACE.0}!log, or those of one of several partitions')
end

-- The text behind the partition and this kind in the name of a key; nil if the name does not begin with them.
local function text_after(kind, name)
  local prefix = partition .. kind
  if string.sub(name, 1, #prefix) ~= prefix then
    return nil
  end
  local text = string.sub(name, #prefix + 1)
  if #text > MAX_BYTES then
    refuse('a key or tag is longer than 1024 bytes')
  end
  -- Instances could not read the message.
  local rest = string.gsub(text, '[\194-\223][\128-\191]', '.')
  -- Neither longer forms of what is shorter, nor surrogates, nor what is above U+10FFFF.
  local not_utf8 = string.find(rest, '\224[\128-\159]') or string.find(rest, '\237[\160-\191]')
    or string.find(rest, '\240[\128-\143]') or string.find(rest, '\244[\144-\191]')
  rest = string.gsub(rest, '[\224-\239][\128-\191][\128-\191]', '.')
  rest = string.gsub(rest, '[\240-\244][\128-\191][\128-\191][\128-\191]', '.')
  if not_utf8 or string.find(rest, '[\128-\255]') then
    refuse('a key or tag is not UTF-8')
  end
  return text
end

local keys, tags = {}, {}
local FIRST_KEY = 3
local i = FIRST_KEY
while i <= #KEYS and text_after(':', KEYS[i]) do
  keys[#keys + 1] = text_after(':', KEYS[i])
  if KEYS[i + 1] ~= partition .. '!lease:' .. keys[#keys] then
    refuse('each {NAMESPACE.0}:KEY must be followed by {NAMESPACE.0}!lease:KEY')
  end
  i = i + 2
end
local first_tag = i
while i <= #KEYS and text_after('!tag:', KEYS[i]) do
  tags[#tags + 1] = text_after('!tag:', KEYS[i])
  i = i + 1
end
if i <= #KEYS then
  refuse('after the clock and the log come {NAMESPACE.0}:KEY with {NAMESPACE.0}!lease:KEY, then {NAMESPACE.0}!tag:TAG')
end

local command, database, random = ARGV[1], ARGV[2] or '', ARGV[3] or ''
-- The clock of the only partition of one names the number of partitions, whether or not that partition is used.
if command == 'partitions' then
  local named = named_partitions(clock_key)
  if named ~= 0 and named ~= tonumber(ARGV[2]) then
    refuse_partition(named)
  end
  return redis.status_reply('OK')
elseif command ~= 'invalidate' and command ~= 'clear' then
  refuse('the first argument must be invalidate, clear or partitions')
elseif command == 'clear' and #KEYS > 2 then
  refuse('clear takes neither keys nor tags')
elseif command == 'invalidate' and #KEYS == 2 then
  refuse('there is nothing to invalidate: name keys or tags')
elseif #keys > MAX_NAMES or #tags > MAX_NAMES then
  refuse('one call takes up to 256 keys and 256 tags')
elseif database ~= '0' and database ~= 'cluster' and not string.match(database, '^[1-9]%d*$') then
  refuse('the second argument must be the number of the database, such as 0, or cluster')
elseif #random < 8 then
  refuse('the third argument must be a random text, such as a UUID')
end

local channel = partition .. (database == 'cluster' and '!sharded' or '!events' .. (database == '0' and '' or '@' .. database))
-- Another number for each run, also if the text is not random: of what was cleared nothing must come back.
local now = redis.call('TIME')
local new_epoch = tonumber(string.sub(redis.sha1hex(now[1] .. ':' .. now[2] .. ':' .. random), 1, 13), 16) + 1

-- The message of an instance, with an origin that is none: see src/wire/message.rs.
local function payload(kind, texts)
  local message = {struct.pack('>BI8I2', kind, 0, #texts)}
  for _, text in ipairs(texts) do
    message[#message + 1] = struct.pack('>I2', #text) .. text
  end
  return table.concat(message)
end

if command == 'clear' then
  start_epoch(clock_key, log_key, channel, new_epoch, payload(CLEAR_KIND, {}))
end
if #keys > 0 then
  redis.call('DEL', unpack(KEYS, FIRST_KEY, first_tag - 1))
  publish(clock_key, log_key, channel, new_epoch, payload(KEYS_KIND, keys))
end
if #tags > 0 then
  invalidate_tags(clock_key, log_key, first_tag, #KEYS, channel, new_epoch, payload(TAGS_KIND, tags))
end
return redis.status_reply('OK')
