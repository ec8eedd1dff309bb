-- NUMBERS  clock | clock...  ->  the number of lanes that each clock names; 0 for none; reads only
-- The clocks are those of all lanes on this server that a namespace may have (rule 27).
local numbers = {named_lanes(KEYS[1])}
for i = 1, #ARGV do
  numbers[i + 1] = named_lanes(ARGV[i])
end
return numbers
