-- The first entries of a stream, as many as `most`, and no more once they have `bytes` together: an answer that is longer
-- would not come in time, however often it is asked for.
local function first_entries(stream, most, bytes)
  local entries, size, from = {}, 0, '-'
  while #entries < most and size < bytes do
    local entry = redis.call('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if not entry then
      break
    end
    entries[#entries + 1] = entry
    for _, part in ipairs(entry[2]) do
      size = size + #part
    end
    from = '(' .. entry[1]
  end
  return entries
end
