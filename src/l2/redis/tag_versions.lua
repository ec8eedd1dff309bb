-- TAG_VERSIONS  clock {tag version}...  ->  epoch, {ver or nil, ...}, or nil without a clock; reads only
-- An older tag version is back after a restart from a snapshot, and so is the value to which it belongs: both are of the
-- epoch that has ended (rules 13 and 20).
local epoch, _, issued = position(KEYS[1])
return epoch and {epoch, tag_versions(2, #KEYS, epoch, issued)}
