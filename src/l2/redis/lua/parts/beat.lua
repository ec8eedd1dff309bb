-- Until when a member of an unnamed incarnation lives that has sent a heartbeat, in ms of the server's time (rule 32): the
-- field `beat` of the clock, which each heartbeat writes. A replica refuses it, and so does a primary without the replicas
-- that it must have.

-- Whether a member lives, by the field as it is stored. No member is heard of for longer than the longest max_staleness:
-- the server's time was set back.
local function is_alive(stored_beat)
  local left = (tonumber(stored_beat or 0) or 0) - time()
  return left > 0 and left <= LONGEST_STALENESS
end

local function write_beat(clock_key, stored_beat, max_staleness)
  local beat = time() + max_staleness
  if is_alive(stored_beat) then
    beat = math.max(beat, tonumber(stored_beat))
  end
  redis.call('HSET', clock_key, 'beat', string.format('%.0f', beat))
end
