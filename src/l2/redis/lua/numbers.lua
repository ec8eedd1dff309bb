-- NUMBERS  clock | clock...  ->  the number of partitions that each clock names; 0 for none; reads only
-- The clocks are those of all partitions on this server that a namespace may have (rule 27).
local numbers = {named_partitions(KEYS[1])}
for _, clock_key in ipairs(ARGV) do
  numbers[#numbers + 1] = named_partitions(clock_key)
end
return numbers
