-- DEAD_LETTERS  dead | most bytes  ->  the first dead letters
local most, bytes = tonumber(ARGV[1]), tonumber(ARGV[2])
return first_entries(KEYS[1], most, bytes)
