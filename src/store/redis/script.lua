-- The usual call, straight through: nearly all calls charge or peek at fixed windows and token buckets, each demand under a key
-- of its own, and find under each key the slots of just these limits, or nothing. What stood under the keys, and the time, is
-- all that is answered: the caller reads the outcome off it with the twins. So hardly a function or a table is made, at a
-- quarter of the cost. Whatever is not usual is left to the scripts below, before anything is written.

local function usual()
  local spread, pack, unpack = unpack, struct.pack, struct.unpack
  local byte, fmod, call = string.byte, math.fmod, redis.call
  local request, MAX_USED = ARGV[1], 2 ^ 50
  local operation, passed, now, runs, cursor = unpack('<BBxI7I2', request)
  if operation ~= 4 then
    return nil
  end
  local first_run = cursor
  local count = unpack('<I2', request, cursor + 9 * runs)
  cursor = cursor + 9 * runs + 2
  if count ~= #KEYS then
    return nil
  end
  if passed == 0 then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
  end

  local refused, quotas, quotas_refused, before = false, 0, 0, ''
  -- What is to be written, if the request passes: keys and values; and when they expire, or 0 for as before.
  local writes, expiries = nil, nil
  for place = 1, count do
    local key, kind, role, hits, limits, more
    key, kind, role, hits, limits, more, cursor = unpack('<I2BBI7BB', request, cursor)
    if key ~= place or kind > 1 or more > 0 then
      return nil
    end
    local value, at, size, seen = redis.pcall('GET', KEYS[place]), 9, 0, now
    -- When the last of the windows ends that stand there, and so when the key expires; 0 if it may expire otherwise.
    local expiry = 0
    if value then
      size = type(value) == 'string' and #value or 0
      if size < 8 or byte(value) ~= 3 then
        return nil
      end
      seen = unpack('<I7', value, 2)
      if seen < now then
        seen = now
      end
      before = before .. pack('<I2', size) .. value
    else
      before = before .. pack('<I2', 0)
    end

    -- Each limit as it is now: what it names, how much room it has, and what of it is stored.
    local room, slots = MAX_USED, limits > 1 and {} or nil
    local tag, ends, used, grains, capacity, length, cost
    for i = 1, limits do
      local always, calendar, algorithm, found
      always, calendar, tag, capacity, length, cost, cursor = unpack('<BBI4I7I7I7', request, cursor)
      algorithm, found, used, grains = tag % 32 - tag % 8, tag, 0, nil
      if always == 1 then
        return nil
      elseif algorithm == 8 then
        if calendar == 0 then
          ends = seen - fmod(seen, length) + length
        else
          local a, b, c, d, e
          a, b, c, d, e, cursor = unpack('<I7I7I7I7I7', request, cursor)
          if seen < a or seen >= e then
            return pack('<BI7', 1, seen)
          end
          ends = seen < b and b or seen < c and c or seen < d and d or e
        end
        if value then
          if at + 12 > size then
            return nil
          end
          local ended
          found, ended, used, at = unpack('<I4I5I4', value, at)
          if ended >= 2 ^ 39 then
            -- More hits than four bytes hold.
            if at + 2 > size then
              return nil
            end
            local many
            many, at = unpack('<I3', value, at)
            ended, used = ended - 2 ^ 39, used + many * 2 ^ 32
          end
          ended = ended * 1000000
          if ended <= seen then
            used = 0
          end
          if ended > expiry then
            expiry = ended
          end
        end
      elseif algorithm == 16 then
        grains = 0
        if value then
          if at + 31 > size then
            return nil
          end
          local since
          found, used, grains, since, at = unpack('<I4xxxxxxxI7I7I7', value, at)
          if used > capacity + capacity then
            used = capacity + capacity
          end
          if grains >= cost then
            grains = cost - 1
          end
          local inflow = seen > since and (seen - since) * length or 0
          if inflow >= used * cost - grains then
            used, grains = 0, 0
          else
            inflow = inflow + grains
            grains = fmod(inflow, cost)
            used = used - (inflow - grains) / cost
          end
        end
      else
        return nil
      end
      if found ~= tag then
        return nil
      end
      -- What counts without end always has room.
      if capacity - used < room and capacity < MAX_USED then
        room = capacity - used
      end
      if slots then
        slots[i] = { tag, ends, used, grains, capacity, length, cost }
      end
    end
    if value and at ~= size + 1 then
      return nil
    end

    -- Of each run of equal requests those that still have room, which are the first of it.
    local charged, fits = 0, hits <= room
    if runs > 0 then
      fits = false
      for i = 0, runs - 1 do
        local many, each = unpack('<I2I7', request, first_run + 9 * i)
        if many * each > room then
          many = (room - fmod(room, each)) / each
          if room < each then
            many = 0
          end
        end
        charged, room, fits = charged + many * each, room - many * each, fits or many > 0
      end
    elseif fits and kind == 0 then
      charged = hits
    end
    if role == 0 then
      refused = refused or not fits
    elseif role == 1 then
      quotas = quotas + 1
      quotas_refused = quotas_refused + (fits and 0 or 1)
    end

    if fits and kind == 0 and limits > 0 then
      local latest, stored = now, pack('<BI7', 3, seen)
      for i = 1, limits do
        if slots then
          tag, ends, used, grains, capacity, length, cost = spread(slots[i])
        end
        used = used + charged
        local expires
        if grains then
          if used > capacity + capacity then
            used = capacity + capacity
          end
          local missing = used * cost - grains
          local rest = fmod(missing, length)
          expires = seen + (rest == 0 and missing / length or (missing - rest) / length + 1)
          stored = stored .. pack('<I4I7I7I7I7', tag, expires, used, grains, seen)
        else
          expires = ends
          if used < 2 ^ 32 then
            stored = stored .. pack('<I4I5I4', tag, ends / 1000000, used)
          else
            used = used < MAX_USED and used or MAX_USED
            local few = fmod(used, 2 ^ 32)
            stored = stored .. pack('<I4I5I4I3', tag, ends / 1000000 + 2 ^ 39, few, (used - few) / 2 ^ 32)
          end
        end
        if expires > latest then
          latest = expires
        end
      end
      writes, expiries = writes or {}, expiries or {}
      writes[#writes + 1] = KEYS[place]
      writes[#writes + 1] = stored
      -- As long as before, and to live as long: it is written in place.
      expiries[#expiries + 1] = #stored == size and latest == expiry and passed == 0 and 0 or latest
    end
  end

  local pass = not refused and not (quotas > 0 and quotas_refused == quotas)
  for i = 1, pass and expiries and #expiries or 0 do
    if expiries[i] == 0 then
      call('SETRANGE', writes[2 * i - 1], '0', writes[2 * i])
    else
      local left = expiries[i] - now
      local rest = fmod(left, 1000)
      local ttl = rest == 0 and left / 1000 or (left - rest) / 1000 + 1
      local least = passed == 1 and 60000 or 1
      call('SET', writes[2 * i - 1], writes[2 * i], 'PX', ttl > least and ttl or least)
    end
  end
  return pack('<BI7', 3, now) .. before
end

local reply = usual()
if reply then
  return reply
end
