#!lua flags=allow-oom
-- Invalidates what larder caches, for programs in any language. https://docs.rs/larder, module other_languages.
-- It is made of parts of the crate, which a test compares; copy the file as it is.
--
--   EVALSHA sha number-of-keys  {NS.0}!clock {NS.0}!log  [{NS.0}:KEY {NS.0}!lease:KEY]...  [{NS.0}!tag:TAG]...
--     'invalidate' | 'clear'  number-of-the-database  random-text   ->  OK
--   EVALSHA sha 2  {NS.0}!clock {NS.0}!log  'partitions' number-of-partitions   ->  OK if the namespace has so many or none

-- What redis.pcall has answered; nil instead of the error that the key is of another type. Any other error, such as
-- that of a missing right, is raised: a script must not go on as if nothing were there. Redis 7.0 does not name the
-- command in such an error.
local function checked(answer, command)
  if type(answer) ~= 'table' or not answer.err then
    return answer
  end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then
    error({err = answer.err .. ' (' .. command .. ')'})
  end
end

-- Every script that reads or advances the partition's clock begins with this part.

-- The server's time in ms, the same throughout a script: that of Redis 7.0 goes on while the script runs.
local server_time
local function time()
  if not server_time then
    local t = redis.call('TIME')
    server_time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return server_time
end

-- Raises the error for a partition that is not used any more. It names the present number of partitions (rule 27).
local function refuse_partition(partitions)
  error({err = 'PARTITIONS ' .. partitions .. ' partitions is the number that this namespace has now'})
end

-- Whether a deadline has passed; '' is none.
local function has_passed(deadline)
  return deadline ~= '' and time() > tonumber(deadline)
end

-- Epoch, seq and ver of the partition, and the nonce of its last message; nil if the clock is missing or damaged: Lua counts
-- whole numbers without gaps below 2^53. The four share one field, in the layout in which a message begins: one field of
-- bytes costs half as much to read and write as fields of digits. A tombstone has a text in their place, so that it costs no
-- other step anything.
local function read_clock(clock_key)
  local numbers = checked(redis.pcall('HGET', clock_key, 'at'), 'HGET')
  if type(numbers) ~= 'string' then
    return nil
  end
  if #numbers == 32 then
    local epoch, seq, ver, nonce = struct.unpack('>I8I8I8I8', numbers)
    if epoch > 0 and epoch < 2 ^ 53 and seq < 2 ^ 53 and ver < 2 ^ 53 and nonce < 2 ^ 53 then
      return epoch, seq, ver, nonce
    end
  end
  local partitions = string.match(numbers, '^PARTITIONS (%d+)$')
  if partitions then
    refuse_partition(partitions)
  end
end

-- The numbers of the clock as this script has written them last.
local clock_numbers

local function set_clock(clock_key, epoch, seq, ver, nonce)
  clock_numbers = struct.pack('>I8I8I8I8', epoch, seq, ver, nonce)
  redis.call('HSET', clock_key, 'at', clock_numbers)
end

-- The answer of a step that has advanced the clock: the numbers, and the time. An instance compares them with the messages
-- that it receives (rule 31).
local function clock_answer()
  return clock_numbers .. struct.pack('>I8', time())
end

-- As read_clock(), but a missing or damaged clock starts the epoch `new_epoch`. That is a random number from the caller:
-- Lua's own generator repeats itself after a restart.
local function ensure_clock(clock_key, new_epoch)
  local epoch, seq, ver, nonce = read_clock(clock_key)
  if epoch then
    return epoch, seq, ver, nonce
  end
  if redis.call('TYPE', clock_key).ok ~= 'hash' then
    redis.call('DEL', clock_key)
  end
  set_clock(clock_key, new_epoch, 0, 0, 0)
  return tonumber(new_epoch), 0, 0, 0
end

-- Publishes on the channel of the partition. In a cluster that is one of the partition's slot: only the node that has it is
-- told.
local function send(channel, message)
  if string.sub(channel, -8) == '!sharded' then
    redis.call('SPUBLISH', channel, message)
  else
    redis.call('PUBLISH', channel, message)
  end
end

-- Orders one write: advances the clock, appends the message to the log and publishes it. The message has `new_epoch`, which
-- is random, as its nonce, and the nonce of the message before it (rule 31). In the log it has the time, too, and the further
-- fields that are given. These are for tools: instances read messages alone.
local function publish(clock_key, log_key, channel, new_epoch, payload, ...)
  local epoch, seq, ver, previous = ensure_clock(clock_key, new_epoch)
  seq, ver = seq + 1, ver + 1
  set_clock(clock_key, epoch, seq, ver, new_epoch)
  local message = 'LM\2' .. clock_numbers .. struct.pack('>I8', previous) .. payload
  if log_key then
    local id, now = string.format('%.0f-0', seq), string.format('%.0f', time())
    local added = redis.pcall('XADD', log_key, id, 'm', message, 'at', now, ...)
    if type(added) == 'table' and added.err then
      -- The log is of another type, or older than the clock: its last number is higher.
      redis.call('DEL', log_key)
      redis.call('XADD', log_key, id, 'm', message, 'at', now, ...)
    end
    if seq % 100 == 0 then
      redis.call('XTRIM', log_key, 'MAXLEN', '~', '10000')
    end
  end
  send(channel, message)
  return epoch, ver, seq
end

-- A new epoch makes every stored value and lease a miss, however many there are. The log is deleted as well: no instance
-- replays messages from before a clear. The clear's own message is not logged, and every hundredth message trims the
-- log, so a log that was kept could grow without bound if these were all clears.
local function start_epoch(clock_key, log_key, channel, new_epoch, payload)
  redis.call('DEL', log_key)
  local _, seq, ver, nonce = ensure_clock(clock_key, new_epoch)
  set_clock(clock_key, new_epoch, seq, ver, nonce)
  return publish(clock_key, nil, channel, new_epoch, payload)
end
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

-- How many partitions a namespace has at most.
local MAX_PARTITIONS = 16

-- The number of partitions that a clock names; 0 for none.
local function named_partitions(clock_key)
  local stored = checked(redis.pcall('HGET', clock_key, 'partitions'), 'HGET')
  local named = tonumber(string.match(type(stored) == 'string' and stored or '', '^%d%d?$')) or 0
  return named <= MAX_PARTITIONS and named or 0
end

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
