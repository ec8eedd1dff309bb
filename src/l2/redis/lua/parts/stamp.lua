-- What stands before the body of each value that is written in this step: magic and stamp (see `layout.lua`).
local function stamp(epoch, ver, written_at, followed)
  local numbers = struct.pack('>I8I8I8I8', epoch, ver, written_at, epoch + ver + written_at)
  return (followed and 'LRD\132' or 'LRD\4') .. numbers
end
