-- PARTITIONS  clock log members | own from to  ->  the number of partitions that the clock names; 0 for none
-- Has the clock of a partition name another number (rule 27), if it names `from`; if that is empty, if it names a smaller
-- one. A clock that names another number than that of its `own` set is a tombstone: every step that reads it is an error.
-- Nothing reads the log and the members of such a partition any more.
local clock_key, log_key, members_key = KEYS[1], KEYS[2], KEYS[3]
local own, from, to = ARGV[1], ARGV[2], tonumber(ARGV[3])

if redis.call('TYPE', clock_key).ok ~= 'hash' then
  redis.call('DEL', clock_key)
end
local named = named_partitions(clock_key)
if named ~= tonumber(from) and (from ~= '' or named >= to) then
  return named
end
if tonumber(own) == to then
  redis.call('HSET', clock_key, 'partitions', to)
  return to
end
-- Writes that wait for their source are in the partition, and no worker would find them.
if redis.call('HGET', clock_key, 'writes') then
  error({err = 'ERR larder: the cache uses write-behind: change partitions while no write waits and no instance runs'})
end
redis.call('HSET', clock_key, 'partitions', to, 'at', 'PARTITIONS ' .. to)
redis.call('DEL', log_key, members_key)
return to
