-- The usual call, straight through: nearly all calls charge or peek, each demand under a key of its own, at fixed windows and
-- token buckets, and find under each key the slots of just these limits, or nothing. It takes the request, and writes the
-- replies, as transaction.lua does, at a quarter of the cost, since it makes hardly a function or a table. Whatever is not usual
-- it leaves to the scripts below, before anything is written. The parity tests hold both against the same twins.

local function usual()
  local pack, unpack, byte, fmod, call = struct.pack, struct.unpack, string.byte, math.fmod, redis.call
  local request, MAX_USED = ARGV[1], 2 ^ 50
  local operation, passed, quotas_decide, now, count, cursor = unpack('<BBBI7I2', request)
  if operation ~= 1 or count ~= #KEYS then
    return nil
  end
  if passed == 0 then
    local time = call('TIME')
    now = time[1] * 1000000 + time[2]
  end

  local refused, quotas, quotas_refused, replies = false, 0, 0, ''
  -- What is to be written, if the request passes: keys and values; and when they expire.
  local writes, expiries = nil, nil
  for place = 1, count do
    local key, kind, role, hits, limits, has_ban
    key, kind, role, hits, limits, has_ban, cursor = unpack('<I2BBI7BB', request, cursor)
    if key ~= place or kind > 1 or has_ban == 1 then
      return nil
    end
    local value, at, size, seen = redis.pcall('GET', KEYS[place]), 9, 0, now
    if value then
      size = type(value) == 'string' and #value or 0
      if size < 8 or byte(value) ~= 1 then
        return nil
      end
      seen = unpack('<I7', value, 2)
      if seen < now then
        seen = now
      end
    end

    local fits, yes, no, slots, latest = true, '', '', '', now
    for _ = 1, limits do
      local always, calendar, tag, capacity, length, cost
      always, calendar, tag, capacity, length, cost, cursor = unpack('<BBI4I7I7I7', request, cursor)
      local algorithm = tag % 32 - tag % 8
      if always == 1 or algorithm > 16 or algorithm < 8 then
        return nil
      end
      local room, verdict, wait, found = capacity - hits, 0, 0, tag
      if algorithm == 8 then
        local ends, used = 0, 0
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
          if at + 24 > size then
            return nil
          end
          local before
          found, before, used, at = unpack('<I4xxxxxxxI7I7', value, at)
          if before <= seen then
            used = 0
          end
        end
        if used > room then
          fits = false
          if hits > capacity then
            verdict = 2
          else
            verdict, wait = 1, ends - seen
          end
        end
        local reading = pack('<BI7I7I7I7', verdict, wait, used, ends - seen, seen)
        yes, no = yes .. reading, no .. reading
        used = used + hits
        slots = slots .. pack('<I4I7I7I7', tag, ends, ends, used < MAX_USED and used or MAX_USED)
        if ends > latest then
          latest = ends
        end
      else
        local used, grains, most = 0, 0, capacity + capacity
        if value then
          if at + 31 > size then
            return nil
          end
          local since
          found, used, grains, since, at = unpack('<I4xxxxxxxI7I7I7', value, at)
          if used > most then
            used = most
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
        if used > room then
          fits = false
          if hits > capacity then
            verdict = 2
          else
            wait = (used - room) * cost - grains
            local rest = fmod(wait, length)
            verdict, wait = 1, rest == 0 and wait / length or (wait - rest) / length + 1
          end
        end
        local missing = used * cost - grains
        local rest = fmod(missing, length)
        local reset = rest == 0 and missing / length or (missing - rest) / length + 1
        no = no .. pack('<BI7I7I7I7', verdict, wait, used, reset, seen)
        local after = used + hits
        if after > most then
          after = most
        end
        missing = after * cost - grains
        rest = fmod(missing, length)
        local later = rest == 0 and missing / length or (missing - rest) / length + 1
        yes = yes .. pack('<BI7I7I7I7', 0, 0, used, kind == 0 and later or reset, seen)
        later = seen + later
        slots = slots .. pack('<I4I7I7I7I7', tag, later, after, grains, seen)
        if later > latest then
          latest = later
        end
      end
      if found ~= tag then
        return nil
      end
    end
    if value and at ~= size + 1 then
      return nil
    end

    if role == 0 then
      refused = refused or not fits
    elseif role == 1 then
      quotas = quotas + 1
      quotas_refused = quotas_refused + (fits and 0 or 1)
    end
    replies = replies .. (fits and yes or no)
    if fits and kind == 0 and limits > 0 then
      writes, expiries = writes or {}, expiries or {}
      writes[#writes + 1] = KEYS[place]
      writes[#writes + 1] = pack('<BI7', 1, seen) .. slots
      expiries[#expiries + 1] = latest
    end
  end

  if refused or (quotas_decide == 1 and quotas > 0 and quotas_refused == quotas) then
    return pack('<BB', 0, 0) .. replies
  end
  for i = 1, expiries and #expiries or 0 do
    local left = expiries[i] - now
    local rest = fmod(left, 1000)
    local ttl = rest == 0 and left / 1000 or (left - rest) / 1000 + 1
    local least = passed == 1 and 60000 or 1
    call('SET', writes[2 * i - 1], writes[2 * i], 'PX', ttl > least and ttl or least)
  end
  return pack('<BB', 0, 1) .. replies
end

local reply = usual()
if reply then
  return reply
end
