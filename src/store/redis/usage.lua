-- What was used; store/usage.rs says what the rows are, usage.rs what is asked and answered. A row is a text under its id: what
-- was used, a space, and the rest. Numbers are texts, and are compared as such: by their lengths first, since Lua would keep
-- 14 digits of them.

local ROWS, ORDER, ENDS, NUMBER, STREAM = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local function less(a, b)
  return #a < #b or (#a == #b and a < b)
end

local function used_of(row)
  return string.sub(row, 1, string.find(row, ' ', 1, true) - 1)
end

if word == 'set' then
  local most = arguments[2]
  for i = 3, #arguments, 4 do
    local id, ends, used, text = arguments[i], arguments[i + 1], arguments[i + 2], arguments[i + 3]
    local known = call('HGET', ROWS, id)
    if not known or less(used_of(known), used) then
      local number = call('INCR', NUMBER)
      call('HSET', ROWS, id, used .. ' ' .. text)
      call('ZADD', ORDER, number, id)
      call('ZADD', ENDS, ends, id)
      call('XADD', STREAM, 'MAXLEN', '~', most, '*', 'used_thousandths', used, 'row', text)
    end
  end
  return framed({})
end

if word == 'after' then
  local found = call('ZRANGEBYSCORE', ORDER, '(' .. arguments[2], '+inf', 'WITHSCORES', 'LIMIT', 0, arguments[3])
  local texts = {}
  for i = 1, #found, 2 do
    texts[#texts + 1] = found[i + 1]
    texts[#texts + 1] = call('HGET', ROWS, found[i])
  end
  return framed(texts)
end

-- tidy: removes rows whose period has ended before the moment given.
local ended = call('ZRANGEBYSCORE', ENDS, '-inf', '(' .. arguments[2], 'LIMIT', 0, arguments[3])
for i = 1, #ended do
  call('HDEL', ROWS, ended[i])
  call('ZREM', ORDER, ended[i])
  call('ZREM', ENDS, ended[i])
end
return framed({})
