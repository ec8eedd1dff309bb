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

