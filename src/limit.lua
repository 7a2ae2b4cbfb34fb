-- The twin of limit.rs: the arithmetic that all algorithms share.
--
-- All numbers are integers in doubles, exact below 2^53. A number is never joined to a text: Lua would keep 14 digits of it.
-- A script makes its functions and tables anew in each call, and they are most of its cost: hence few of them, tables that are
-- made with all their fields, and algorithms that are made when they are needed.

local call, try = redis.call, redis.pcall
local pack, unpack, byte = struct.pack, struct.unpack, string.byte
local fmod, max, min = math.fmod, math.max, math.min

local MAX_USED = 2 ^ 50
local ALLOWED, WAIT, NEVER, BANNED = 0, 1, 2, 3

-- A moment that the calendar edges of the request do not reach to. The call then writes nothing and asks for others.
local retime = nil

local function plus(a, b)
  return min(a + b, MAX_USED)
end

local function minus(a, b)
  return max(a - b, 0)
end

-- Whole quotients of whole numbers: the remainder goes first, so that the division has nothing to round.
local function div(a, b)
  return (a - fmod(a, b)) / b
end

local function div_ceil(a, b)
  local rest = fmod(a, b)
  if rest == 0 then
    return a / b
  end
  return (a - rest) / b + 1
end

-- Whether `hits` more fit into an advanced state, and if not, the time until they do.
local function verdict(limit, state, now, hits)
  local algorithm = limit.algorithm
  if plus(algorithm.used(state), hits) <= limit.capacity then
    return ALLOWED, 0
  end
  if hits > limit.capacity then
    return NEVER, 0
  end
  return WAIT, algorithm.wait(limit, state, now, hits)
end
