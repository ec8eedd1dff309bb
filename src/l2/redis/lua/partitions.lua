-- PARTITIONS  clock log live | own from to  ->  the number of partitions that the clock names; 0 for none
-- Has the clock of a partition name another number (rule 27), if it names `from`; if that is empty, if it names a smaller
-- one. A clock that names another number than that of its `own` set is a tombstone: every step that reads it is an error.
-- Nothing reads the log and the members of such a partition any more.
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then
  redis.call('DEL', KEYS[1])
end
local named, to = named_partitions(KEYS[1]), tonumber(ARGV[3])
if named ~= tonumber(ARGV[2]) and (ARGV[2] ~= '' or named >= to) then
  return named
end
if ARGV[1] == ARGV[3] then
  redis.call('HSET', KEYS[1], 'partitions', to)
  return to
end
-- Writes that wait for their source are in the partition, and no worker would find them.
if redis.call('HGET', KEYS[1], 'writes') then
  error({err = 'ERR larder: the cache uses write-behind: change partitions while no write waits and no instance runs'})
end
redis.call('HSET', KEYS[1], 'partitions', to, 'at', 'PARTITIONS ' .. to)
redis.call('DEL', KEYS[2], KEYS[3])
return to
