-- What instances tell each other; store/posts.rs says what it is, posts.rs what is asked and answered.

local UNTIL, POSTS = KEYS[1], KEYS[2]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- post: what an instance says from now on, and for how many milliseconds. What has not been said again in time goes.
if word == 'post' then
  local keep = tonumber(arguments[4])
  local ended = call('ZRANGEBYSCORE', UNTIL, '-inf', now)
  for i = 1, #ended do
    call('ZREM', UNTIL, ended[i])
    call('HDEL', POSTS, ended[i])
  end
  call('ZADD', UNTIL, now + keep, arguments[2])
  call('HSET', POSTS, arguments[2], arguments[3])
  local last = call('ZREVRANGE', UNTIL, 0, 0, 'WITHSCORES')
  call('PEXPIREAT', UNTIL, last[2])
  call('PEXPIREAT', POSTS, last[2])
  return framed({})
end

-- posts: what they say, each after its name; so many at most.
local names = call('ZREVRANGEBYSCORE', UNTIL, '+inf', '(' .. now, 'LIMIT', 0, arguments[2])
local texts = {}
for i = 1, #names do
  local text = call('HGET', POSTS, names[i])
  if text then
    texts[#texts + 1] = names[i]
    texts[#texts + 1] = text
  end
end
return framed(texts)
