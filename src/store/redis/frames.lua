-- What the scripts beside the one that decides have in common: a request is a word and its arguments, a reply a list of texts,
-- each with its length before it. frames.rs writes and reads them.

local call = redis.call

local arguments, at = {}, 1
while at <= #ARGV[1] do
  arguments[#arguments + 1], at = struct.unpack('<I4c0', ARGV[1], at)
end
local word = arguments[1]

local function framed(texts)
  local parts = {}
  for i = 1, #texts do
    parts[i] = struct.pack('<I4c0', #texts[i], texts[i])
  end
  return table.concat(parts)
end
