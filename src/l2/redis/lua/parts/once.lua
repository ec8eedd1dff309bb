-- A step that is done once, however many copies of its request arrive: each call has a key `done` of its own, with the
-- answer of the copy that came first.

-- How long the answer to a request without a deadline is kept, in ms. It is sent again once, within the time limits of a
-- connection, which are shorter.
local KEPT_WITHOUT_DEADLINE = 60000

-- Keeps the answer, as long as copies may ask for it: until the deadline. Returns it.
local function keep_answer(done_key, deadline, answer)
  local ttl_ms = deadline == '' and KEPT_WITHOUT_DEADLINE or deadline - time() + 1
  redis.call('SET', done_key, answer, 'PX', ttl_ms)
  return answer
end

