-- DEAD_LETTERS  dead | most bytes  ->  the first dead letters
return first_entries(KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]))
