-- The twin of ban.rs. A ban is asked apart from the limits of a demand, and its state is a slot of the record like theirs.

local function ban()
  local MAX_TIMES = 32
  local self = {}

  local function end_of_window(rule, now)
    return now - fmod(now, rule.window) + rule.window
  end

  function self.fresh(rule, now)
    return { tag = rule.tag, expires = now, ends = end_of_window(rule, now), refusals = 0, banned_until = 0, times = 0 }
  end

  function self.advance(rule, state, now)
    if state.ends <= now then
      state.refusals, state.ends = 0, end_of_window(rule, now)
    end
    if state.banned_until + rule.longest <= now then
      state.times = 0
    end
  end

  function self.refuse(rule, state, now)
    if state.banned_until > now then
      return
    end
    state.refusals = state.refusals + 1
    if state.refusals >= rule.after then
      state.refusals, state.times = 0, min(state.times + 1, MAX_TIMES)
      state.banned_until = now + min(rule.first * 2 ^ (state.times - 1), rule.longest)
    end
  end

  function self.fresh_in(rule, state, now)
    local counted = state.refusals > 0 and minus(state.ends, now) or 0
    local remembered = state.times > 0 and minus(state.banned_until + rule.longest, now) or 0
    return max(counted, remembered)
  end

  function self.encode(state)
    return pack('<I4I7I7I4I7B', state.tag, state.expires, state.ends, state.refusals, state.banned_until, state.times)
  end

  function self.decode(value, at)
    local tag, expires, ends, refusals, banned, times, at = unpack('<I4I7I7I4I7B', value, at)
    return { tag = tag, expires = expires, ends = ends, refusals = refusals, banned_until = banned, times = times }, at
  end

  return self
end
