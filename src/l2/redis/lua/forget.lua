-- FORGET  live | id entry
-- Removes a member, unless it has noted something since its entry was read (rule 16).
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
