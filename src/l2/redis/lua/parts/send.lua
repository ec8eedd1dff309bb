-- Publishes on the channel of the partition. In a cluster that is one of the partition's slot: only the node that has it is
-- told.
local function send(channel, message)
  if string.sub(channel, -8) == '!sharded' then
    redis.call('SPUBLISH', channel, message)
  else
    redis.call('PUBLISH', channel, message)
  end
end

