-- RUN  clock | lanes rnd  ->  epoch seq now lanes
-- Before a new connection is used: a server that restarted or was promoted may have brought deleted
-- values back, so its life starts a new epoch. Numbers go on.
local run = life()
local epoch, seq, ver = clock(KEYS[1], ARGV[2])
local known = redis.call('HMGET', KEYS[1], 'run', 'lanes')
if not known[2] then
  redis.call('HSET', KEYS[1], 'lanes', ARGV[1])
end
if known[1] ~= run then
  epoch = tonumber(ARGV[2])
  set_position(KEYS[1], epoch, seq, ver)
  redis.call('HSET', KEYS[1], 'run', run, 'since', string.format('%.0f', time()))
end
return {epoch, seq, time(), tonumber(known[2] or ARGV[1])}
