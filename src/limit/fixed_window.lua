-- The twin of fixed_window.rs. Calendar windows come as `limit.edges`, the borders around the time of the call, since Redis
-- knows no time zones; even windows as `limit.length`.

local function fixed_window()
  local self = {}

  local function window_end(limit, now)
    if limit.length then
      return now - fmod(now, limit.length) + limit.length
    end
    local edges = limit.edges
    if now < edges[1] or now >= edges[#edges] then
      retime = now
      return now + 1
    end
    local next = 2
    while edges[next] <= now do
      next = next + 1
    end
    return edges[next]
  end

  function self.fresh(limit, now)
    return { ends = window_end(limit, now), used = 0 }
  end

  function self.advance(limit, state, now)
    if state.ends <= now then
      state.used = 0
    end
    state.ends = window_end(limit, now)
  end

  function self.used(state)
    return state.used
  end

  function self.wait(limit, state, now, hits)
    return self.fresh_in(limit, state, now)
  end

  function self.charge(limit, state, hits)
    state.used = plus(state.used, hits)
  end

  function self.refund(state, hits)
    state.used = minus(state.used, hits)
  end

  function self.give_back(limit, state, now, receipt)
    if window_end(limit, receipt.at) == state.ends then
      self.refund(state, receipt.hits)
    end
  end

  function self.fresh_in(limit, state, now)
    return minus(state.ends, now)
  end

  function self.encode(state)
    return pack('<I7I7', state.ends, state.used)
  end

  function self.decode(value, at)
    local state = {}
    state.ends, state.used, at = unpack('<I7I7', value, at)
    return state, at
  end

  return self
end
