-- Publishes on the channel of the lane. In a cluster that is one of the lane's slot: only the node that has it is told.
local function send(channel, message)
  if string.sub(channel, -8) == '!sharded' then
    redis.call('SPUBLISH', channel, message)
  else
    redis.call('PUBLISH', channel, message)
  end
end

