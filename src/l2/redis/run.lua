-- RUN  clock | lanes rnd  ->  epoch seq now lanes
-- Before a new connection is used: a server that restarted or was promoted may have brought deleted
-- values back, so its life starts a new epoch. Numbers go on.
local run = life()
clock(KEYS[1], ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'run', 'lanes')
if not known[2] then
  redis.call('HSET', KEYS[1], 'lanes', ARGV[1])
end
if known[1] ~= run then
  redis.call('HSET', KEYS[1], 'run', run, 'epoch', ARGV[2], 'since', string.format('%.0f', time()))
end
local epoch, seq = clock(KEYS[1], ARGV[2])
return {epoch, seq, time(), tonumber(known[2] or ARGV[1])}
