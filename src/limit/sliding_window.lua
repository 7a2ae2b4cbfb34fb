-- The twin of sliding_window.rs; `limit.length` is that of a slice.

local function sliding_window()
  local REMEMBERED = 11
  local self = {}

  local function number(limit, now)
    return div(now, limit.length)
  end

  local function leaves(limit, number)
    return (number + REMEMBERED) * limit.length
  end

  function self.fresh(limit, now)
    local counts = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
    return { tag = limit.tag, expires = now, newest = number(limit, now), counts = counts }
  end

  function self.advance(limit, state, now)
    local newest = number(limit, now)
    local passed = minus(newest, state.newest)
    if passed == 0 then
      return
    end
    state.newest = newest
    for i = REMEMBERED, 1, -1 do
      state.counts[i] = state.counts[i - passed] or 0
    end
  end

  function self.used(state)
    local sum = 0
    for i = 1, REMEMBERED do
      sum = plus(sum, state.counts[i])
    end
    return sum
  end

  function self.wait(limit, state, now, hits)
    local excess = minus(plus(self.used(state), hits), limit.capacity)
    for age = REMEMBERED - 1, 0, -1 do
      excess = minus(excess, state.counts[age + 1])
      if excess == 0 then
        return minus(leaves(limit, state.newest - age), now)
      end
    end
    return self.fresh_in(limit, state, now)
  end

  function self.charge(limit, state, hits)
    state.counts[1] = plus(state.counts[1], hits)
  end

  function self.refund(state, hits)
    for i = REMEMBERED, 1, -1 do
      local taken = min(hits, state.counts[i])
      state.counts[i] = state.counts[i] - taken
      hits = hits - taken
    end
  end

  function self.give_back(limit, state, now, receipt)
    local age = state.newest - number(limit, receipt.at)
    local count = state.counts[age + 1]
    if count then
      state.counts[age + 1] = minus(count, receipt.hits)
    end
  end

  function self.fresh_in(limit, state, now)
    for age = 0, REMEMBERED - 1 do
      if state.counts[age + 1] > 0 then
        return minus(leaves(limit, state.newest - age), now)
      end
    end
    return 0
  end

  -- Slices up to the oldest that has hits, each as wide as the largest needs.
  function self.encode(state)
    local stored, width, largest = 0, 1, 0
    for i = 1, REMEMBERED do
      if state.counts[i] > 0 then
        stored = i
        largest = max(largest, state.counts[i])
      end
    end
    while largest >= 256 ^ width do
      width = width + 1
    end
    local parts = { pack('<I4I7I7BB', state.tag, state.expires, state.newest, stored, width) }
    local format = '<I' .. width
    for i = 1, stored do
      parts[i + 1] = pack(format, state.counts[i])
    end
    return table.concat(parts)
  end

  function self.decode(value, at)
    local tag, expires, newest, stored, width, at = unpack('<I4I7I7BB', value, at)
    if stored > REMEMBERED or width < 1 or width > 7 then
      error('damaged')
    end
    local counts, format = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, '<I' .. width
    for i = 1, stored do
      counts[i], at = unpack(format, value, at)
    end
    return { tag = tag, expires = expires, newest = newest, counts = counts }, at
  end

  return self
end
