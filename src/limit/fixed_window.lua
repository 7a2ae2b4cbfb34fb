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

  -- Windows end on whole seconds, and the state is as good as fresh when its window ends. Hits have four bytes; more of them
  -- have seven, and the end has its highest bit set.
  function self.encode(state)
    local ends, used = state.ends / 1000000, state.used
    local few = fmod(used, 2 ^ 32)
    if few == used then
      return pack('<I4I5I4', state.tag, ends, few)
    end
    return pack('<I4I5I4I3', state.tag, ends + 2 ^ 39, few, (used - few) / 2 ^ 32)
  end

  function self.decode(value, at)
    local tag, ends, used, many
    tag, ends, used, at = unpack('<I4I5I4', value, at)
    if ends >= 2 ^ 39 then
      many, at = unpack('<I3', value, at)
      ends, used = ends - 2 ^ 39, used + many * 2 ^ 32
    end
    return { tag = tag, expires = ends * 1000000, ends = ends * 1000000, used = used }, at
  end

  return self
end
