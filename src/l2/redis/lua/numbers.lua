-- NUMBERS  clock | clock...  ->  the number of partitions that each clock names; 0 for none; reads only
-- The clocks are those of all partitions on this server that a namespace may have (rule 27).
local numbers = {named_partitions(KEYS[1])}
for i = 1, #ARGV do
  numbers[i + 1] = named_partitions(ARGV[i])
end
return numbers
