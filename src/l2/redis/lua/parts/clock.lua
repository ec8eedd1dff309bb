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

