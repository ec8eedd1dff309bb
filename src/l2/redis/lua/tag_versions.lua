-- TAG_VERSIONS  clock {tag version}...  ->  epoch, {ver or nil, ...}, or nil without a clock; reads only
-- The instance has read a value before. If the server went back to a snapshot in between, a tag version in the snapshot
-- has the epoch of the value, and may be from before an invalidation of the tag: so only the present epoch counts (rule
-- 20).
local FIRST_TAG = 2

local epoch, _, issued = read_clock(KEYS[1])
return epoch and {epoch, tag_versions(FIRST_TAG, #KEYS, epoch, issued)}
