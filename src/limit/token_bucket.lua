-- The twin of token_bucket.rs, in thousandths of a hit and grains.

local function token_bucket()
  local self = {}

  local function missing(limit, state)
    return minus(state.used * limit.cost, state.grains)
  end

  function self.fresh(limit, now)
    return { tag = limit.tag, expires = now, used = 0, grains = 0, at = now }
  end

  function self.advance(limit, state, now)
    -- A lowered limit lowers the debt, and keeps the products exact.
    state.used = min(state.used, plus(limit.capacity, limit.capacity))
    state.grains = min(state.grains, limit.cost - 1)
    local elapsed = minus(now, state.at)
    state.at = max(state.at, now)
    -- Beyond 2^53 this product is rounded, but it is then more than any bucket can miss.
    local inflow = elapsed * limit.refill
    if inflow >= missing(limit, state) then
      state.used, state.grains = 0, 0
      return
    end
    local grains = inflow + state.grains
    local rest = fmod(grains, limit.cost)
    state.used, state.grains = minus(state.used, (grains - rest) / limit.cost), rest
  end

  function self.used(state)
    return state.used
  end

  function self.wait(limit, state, now, hits)
    local excess = minus(plus(state.used, hits), limit.capacity)
    return div_ceil(minus(excess * limit.cost, state.grains), limit.refill)
  end

  function self.charge(limit, state, hits)
    state.used = min(plus(state.used, hits), plus(limit.capacity, limit.capacity))
  end

  function self.refund(state, hits)
    state.used = minus(state.used, hits)
    if state.used == 0 then
      state.grains = 0
    end
  end

  function self.give_back(limit, state, now, receipt)
    local refilled = div_ceil(minus(now, receipt.at) * limit.refill, limit.cost)
    local forgiven = minus(refilled, receipt.used_before)
    self.refund(state, minus(receipt.hits, forgiven))
  end

  function self.fresh_in(limit, state, now)
    return div_ceil(missing(limit, state), limit.refill)
  end

  function self.encode(state)
    return pack('<I4I7I7I7I7', state.tag, state.expires, state.used, state.grains, state.at)
  end

  function self.decode(value, at)
    local tag, expires, used, grains, since, at = unpack('<I4I7I7I7I7', value, at)
    return { tag = tag, expires = expires, used = used, grains = grains, at = since }, at
  end

  return self
end
