-- REVALIDATE  value lease clock tag_version... | token epoch seen times px rnd channel key_text type_tag
--   ->  OK - stamp | REJECTED values - | ABSENT - -
-- As FILL, with the value that is stored already: if it is still the version `seen`, it gets a new stamp.
local epoch, seq, ver = clock(KEYS[3], ARGV[6])
local since, mark, _, leases = standing(checked(redis.pcall('GET', KEYS[2]), 'GET'), KEYS[3], epoch, ARGV[2], ARGV[1])
if not since then
  return {rejected(KEYS[1])}
end
local head, place = find(head_of, KEYS[1], ARGV[9])
if read_issued(head, epoch, ver) ~= tonumber(ARGV[3]) then
  return {'ABSENT', false, false}
end
local tags = invalidated(KEYS[3], 4, #KEYS, epoch, ver)
if any_after(tags, since) then
  end_lease(KEYS[2], mark, leases, ARGV[7], ARGV[8])
  return {rejected(KEYS[1])}
end
local at = time()
ver = ver + 1
set_position(KEYS[3], epoch, seq, ver)
-- What says whether another value follows stays as it is.
redis.call('SETRANGE', KEYS[1], place + 4, string.sub(stamp(epoch, ver, at), 5) .. ARGV[4])
keep(KEYS[1], head, place, ARGV[5])
keep_tag_versions(tags, epoch, ARGV[5])
end_lease(KEYS[2], mark, leases, ARGV[7], ARGV[8])
return {'OK', false, struct.pack('>I8I8I8', epoch, ver, at)}
