-- FORGET  members | id entry
-- Removes a member, unless it has noted something since its entry was read (rule 16).
local members_key = KEYS[1]
local id, entry = unpack(ARGV)

if checked(redis.pcall('HGET', members_key, id), 'HGET') == entry then
  redis.call('HDEL', members_key, id)
end
