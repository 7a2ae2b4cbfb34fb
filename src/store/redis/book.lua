-- Texts, items and the log of changes; store/book.rs says what they are, book.rs what is asked and answered. A text that may
-- be missing begins with 1, and is 0 if it is.

local MAX_LOG = 4096

local function maybe(text)
  return text and '1' .. text or '0'
end

local function announce(number, log, change)
  call('INCR', number)
  call('LPUSH', log, change)
  call('LTRIM', log, 0, MAX_LOG - 1)
end

if word == 'text' then
  return framed({ maybe(call('GET', KEYS[1])) })
end

if word == 'replace' then
  if maybe(call('GET', KEYS[1])) ~= arguments[2] then
    return framed({ '0' })
  end
  if arguments[3] == '0' then
    call('DEL', KEYS[1])
  elseif arguments[4] == '0' then
    call('SET', KEYS[1], string.sub(arguments[3], 2))
  else
    call('SET', KEYS[1], string.sub(arguments[3], 2), 'PX', arguments[4])
  end
  return framed({ '1' })
end

if word == 'announce' then
  announce(KEYS[2], KEYS[3], arguments[2])
  return framed({})
end

if word == 'item' then
  if arguments[3] == '0' then
    call('HDEL', KEYS[1], arguments[2])
  else
    call('HSET', KEYS[1], arguments[2], string.sub(arguments[3], 2))
  end
  announce(KEYS[2], KEYS[3], 'i' .. arguments[2] .. '\0' .. string.sub(arguments[3], 2))
  return framed({})
end

if word == 'items' then
  local all = call('HGETALL', KEYS[1])
  table.insert(all, 1, call('GET', KEYS[2]) or '0')
  return framed(all)
end

-- present: for how many milliseconds an instance is here from now on, none if it leaves; and how many are.
if word == 'present' then
  local time = call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local keep = tonumber(arguments[3])
  call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  if keep > 0 then
    call('ZADD', KEYS[1], now + keep, arguments[2])
    call('PEXPIRE', KEYS[1], keep)
  else
    call('ZREM', KEYS[1], arguments[2])
  end
  return framed({ tostring(call('ZCARD', KEYS[1])) })
end

-- changes: what came after the change of the number given, oldest first; nothing at all if that cannot be told.
local number = call('GET', KEYS[2]) or '0'
local missed = tonumber(number) - tonumber(arguments[2])
if missed < 0 or missed > call('LLEN', KEYS[3]) then
  return framed({})
end
local changes = { number }
if missed > 0 then
  local log = call('LRANGE', KEYS[3], 0, missed - 1)
  for i = #log, 1, -1 do
    changes[#changes + 1] = log[i]
  end
end
return framed(changes)
