-- How many keys, and how many tags, one call takes: as many as one message of an instance names.
local MOST_NAMES = 256
local MAX_TEXT = 1024

local function refuse(why)
  error({err = 'ERR larder: ' .. why})
end

local clock_name = KEYS[1] or ''
local partition = string.match(clock_name, '^({[^{}]+%.0})!clock$')
  or string.match(clock_name, '^({[^{}]+%.%d+of%d+%.%d+})!clock$')
if not partition or KEYS[2] ~= partition .. '!log' then
  refuse('the first two keys must be {NAMESPACE.0}!clock and {NAMESPACE.0}!log, or those of one of several partitions')
end

-- What follows the partition and this mark in the name of a key; nil if the name does not begin with them.
local function text_after(mark, name)
  local before = partition .. mark
  if string.sub(name, 1, #before) ~= before then
    return nil
  end
  local text = string.sub(name, #before + 1)
  if #text > MAX_TEXT then
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
local at = 3
while at <= #KEYS and text_after(':', KEYS[at]) do
  keys[#keys + 1] = text_after(':', KEYS[at])
  if KEYS[at + 1] ~= partition .. '!lease:' .. keys[#keys] then
    refuse('each {NAMESPACE.0}:KEY must be followed by {NAMESPACE.0}!lease:KEY')
  end
  at = at + 2
end
local first_tag = at
while at <= #KEYS and text_after('!tag:', KEYS[at]) do
  tags[#tags + 1] = text_after('!tag:', KEYS[at])
  at = at + 1
end
if at <= #KEYS then
  refuse('after the clock and the log come {NAMESPACE.0}:KEY with {NAMESPACE.0}!lease:KEY, then {NAMESPACE.0}!tag:TAG')
end

local what, database, random = ARGV[1], ARGV[2] or '', ARGV[3] or ''
-- The clock of the only partition of one names the number of partitions, whether or not that partition is used.
if what == 'partitions' then
  local named = named_partitions(KEYS[1])
  if named ~= 0 and named ~= tonumber(ARGV[2]) then
    refuse_partition(named)
  end
  return redis.status_reply('OK')
elseif what ~= 'invalidate' and what ~= 'clear' then
  refuse('the first argument must be invalidate, clear or partitions')
elseif what == 'clear' and #KEYS > 2 then
  refuse('clear takes neither keys nor tags')
elseif what == 'invalidate' and #KEYS == 2 then
  refuse('there is nothing to invalidate: name keys or tags')
elseif #keys > MOST_NAMES or #tags > MOST_NAMES then
  refuse('one call takes up to 256 keys and 256 tags')
elseif database ~= '0' and database ~= 'cluster' and not string.match(database, '^[1-9]%d*$') then
  refuse('the second argument must be the number of the database, such as 0, or cluster')
elseif #random < 8 then
  refuse('the third argument must be a random text, such as a UUID')
end

local channel = partition .. (database == 'cluster' and '!sharded' or '!events' .. (database == '0' and '' or '@' .. database))
-- Another number for each run, also if the text is not random: of what was cleared nothing must come back.
local now = redis.call('TIME')
local rnd = tonumber(string.sub(redis.sha1hex(now[1] .. ':' .. now[2] .. ':' .. random), 1, 13), 16) + 1

-- The message of an instance, with an origin that is none: see src/wire/message.rs.
local function payload(kind, texts)
  local message = {struct.pack('>BI8I2', kind, 0, #texts)}
  for _, text in ipairs(texts) do
    message[#message + 1] = struct.pack('>I2', #text) .. text
  end
  return table.concat(message)
end

if what == 'clear' then
  start_epoch(KEYS[1], KEYS[2], channel, rnd, payload(2, {}))
end
if #keys > 0 then
  redis.call('DEL', unpack(KEYS, 3, first_tag - 1))
  publish(KEYS[1], KEYS[2], channel, rnd, payload(0, keys))
end
if #tags > 0 then
  invalidate_tags(KEYS[1], KEYS[2], first_tag, #KEYS, channel, rnd, payload(4, tags))
end
return redis.status_reply('OK')
