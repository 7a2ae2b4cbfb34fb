-- The twin of fixed_window.rs. Even windows come as `limit.length`; calendar windows as `limit.borders`, those around the time
-- of the call, since Redis knows no time zones.

local function fixed_window()
  local self = {}

  local function window_end(limit, now)
    local borders = limit.borders
    if not borders then
      return now - fmod(now, limit.length) + limit.length
    end
    if now < borders[1] or now >= borders[#borders] then
      retime = now
      return now + 1
    end
    local next = 2
    while borders[next] <= now do
      next = next + 1
    end
    return borders[next]
  end

  function self.fresh(limit, now)
    return { tag = limit.tag, expires = now, ends = window_end(limit, now), used = 0 }
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

  -- Windows end on whole seconds, and the state is as good as fresh when its window ends.
  function self.encode(state)
    return pack('<I4I5I7', state.tag, state.ends / 1000000, state.used)
  end

  function self.decode(value, at)
    local tag, ends, used, at = unpack('<I4I5I7', value, at)
    return { tag = tag, expires = ends * 1000000, ends = ends * 1000000, used = used }, at
  end

  return self
end
