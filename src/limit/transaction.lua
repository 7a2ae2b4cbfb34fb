-- The twin of transaction.rs, and the form of a call: one packed request in ARGV, one packed value under each key, one packed
-- reply. store/redis/script.rs writes the requests and reads the replies.

local VERSION = 1
local MAX_SLOTS = 16
local DONE, RETIME, CORRUPT = 0, 1, 2
local GIVE_BACK = 2
local CHARGE, REFUND = 0, 2
local ENFORCED, QUOTA = 0, 1

-- Who passes the time in has a clock of their own, which may be slower than this one: their keys live at least this long.
local PASSED_TIME_TTL_MS = 60000

local request, cursor = ARGV[1], 1
local makers, made = { fixed_window, token_bucket, sliding_window }, {}

-- Made on first use: a script makes its functions anew in each call, and most calls need one algorithm.
local function algorithm_of(tag)
  local which = fmod(div(tag, 8), 4)
  if not made[which] then
    made[which] = makers[which]()
  end
  return made[which], which
end

local function take_limit()
  local limit, which, calendar = {}, nil, nil
  limit.always, calendar, limit.tag, limit.capacity, cursor = unpack('<BBI4I7', request, cursor)
  limit.algorithm, which = algorithm_of(limit.tag)
  if calendar == 1 then
    local edges = {}
    edges[1], edges[2], edges[3], edges[4], edges[5], cursor = unpack('<I7I7I7I7I7', request, cursor)
    limit.edges = edges
  elseif which == 1 then
    limit.length, cursor = unpack('<I7', request, cursor)
  elseif which == 2 then
    limit.refill, limit.cost, cursor = unpack('<I7I7', request, cursor)
  else
    limit.slice, cursor = unpack('<I7', request, cursor)
  end
  return limit
end

local function decode(value)
  local version, seen, at = unpack('<BI7', value)
  if version ~= VERSION then
    error('another version')
  end
  local record, size = { seen = seen, slots = {} }, #value
  while at <= size do
    local slot = {}
    slot.tag, slot.expires, at = unpack('<I4I7', value, at)
    slot.state, at = algorithm_of(slot.tag).decode(value, at)
    record.slots[#record.slots + 1] = slot
  end
  return record
end

local function encode(record)
  local parts = { pack('<BI7', VERSION, record.seen) }
  for _, slot in ipairs(record.slots) do
    parts[#parts + 1] = pack('<I4I7', slot.tag, slot.expires)
    parts[#parts + 1] = algorithm_of(slot.tag).encode(slot.state)
  end
  return table.concat(parts)
end

-- What lies under the keys, each read once; none if it is not a text.
local function read_values()
  local values = {}
  for place, key in ipairs(KEYS) do
    values[place] = try('GET', key)
    if type(values[place]) == 'table' then
      return nil, place
    end
  end
  return values
end

-- The records in the values; or none, and the place of one that is not ours.
local function decode_all(values)
  local records = {}
  for place, value in ipairs(values) do
    local ours, record = true, { seen = 0, slots = {} }
    if value then
      ours, record = pcall(decode, value)
    end
    if not ours then
      return nil, place
    end
    records[place] = record
  end
  return records
end

local function write_record(key, record, now, time_passed_in)
  local expires = now
  for _, slot in ipairs(record.slots) do
    expires = max(expires, slot.expires)
  end
  local ttl = max(div_ceil(expires - now, 1000), 1)
  if time_passed_in then
    ttl = max(ttl, PASSED_TIME_TTL_MS)
  end
  call('SET', key, encode(record), 'PX', string.format('%.0f', ttl))
end

-- Forgets what is as good as fresh, and at the bound what will be so soonest.
local function make_room(record, now)
  local kept = {}
  for _, slot in ipairs(record.slots) do
    if slot.expires > now then
      kept[#kept + 1] = slot
    end
  end
  if #kept >= MAX_SLOTS then
    local soonest = 1
    for i = 2, #kept do
      if kept[i].expires < kept[soonest].expires then
        soonest = i
      end
    end
    table.remove(kept, soonest)
  end
  record.slots = kept
end

local function find_slot(record, tag)
  for _, slot in ipairs(record.slots) do
    if slot.tag == tag then
      return slot
    end
  end
end

-- The advanced slot of `limit`, made if need be.
local function slot_of(record, limit, now)
  local slot = find_slot(record, limit.tag)
  if not slot then
    make_room(record, now)
    slot = { tag = limit.tag, expires = now, state = limit.algorithm.fresh(limit, now) }
    record.slots[#record.slots + 1] = slot
  end
  limit.algorithm.advance(limit, slot.state, now)
  return slot
end

local function advance_clock(record, now)
  record.seen = max(record.seen, now)
  return record.seen
end

local function apply(limit, slot, demand, now)
  if demand.kind == CHARGE then
    limit.algorithm.charge(limit, slot.state, demand.hits)
  elseif demand.kind == REFUND then
    limit.algorithm.refund(slot.state, demand.hits)
  else
    return false
  end
  slot.expires = now + limit.algorithm.fresh_in(limit, slot.state, now)
  return true
end

-- Reads a demand off `record`, and charges it there if it fits. Tells whether it fits and whether the record has changed.
local function read(record, demand, now, readings)
  now = advance_clock(record, now)
  local first, fits, changed = #readings, true, false
  for _, limit in ipairs(demand.limits) do
    local slot = slot_of(record, limit, now)
    local reading = { at = now, verdict = ALLOWED, wait = 0 }
    if demand.kind ~= REFUND then
      reading.verdict, reading.wait = verdict(limit, slot.state, now, demand.hits)
    end
    fits = fits and reading.verdict == ALLOWED
    reading.used = limit.algorithm.used(slot.state)
    readings[#readings + 1] = reading
  end
  for i, limit in ipairs(demand.limits) do
    local slot, reading = slot_of(record, limit, now), readings[first + i]
    if fits or limit.always == 1 then
      changed = apply(limit, slot, demand, now) or changed
    end
    if reading.verdict == WAIT then
      local later, wait = verdict(limit, slot.state, now, demand.hits)
      if later ~= ALLOWED then
        reading.verdict, reading.wait = later, wait
      end
    end
    reading.reset = limit.algorithm.fresh_in(limit, slot.state, now)
  end
  return fits, changed
end

-- Charges those limits of a refused request that are charged always.
local function charge_always(record, demand, now)
  now = advance_clock(record, now)
  local changed = false
  for _, limit in ipairs(demand.limits) do
    if limit.always == 1 then
      changed = apply(limit, slot_of(record, limit, now), demand, now) or changed
    end
  end
  return changed
end

local function take_demands()
  local demands, count, any_always = {}, nil, false
  count, cursor = unpack('<I2', request, cursor)
  for i = 1, count do
    local demand, limits = { limits = {} }, nil
    demand.key, demand.kind, demand.role, demand.hits, limits, cursor = unpack('<I2BBI7B', request, cursor)
    for j = 1, limits do
      demand.limits[j] = take_limit()
      any_always = any_always or demand.limits[j].always == 1
    end
    demands[i] = demand
  end
  return demands, any_always
end

-- Whether the demands of this call do not refuse the request. Quotas count only if all of the request's are here.
local function admits(demands, fitting, quotas_decide)
  local quotas, quotas_refused = 0, 0
  for i, demand in ipairs(demands) do
    if demand.role == ENFORCED and not fitting[i] then
      return false
    end
    if demand.role == QUOTA then
      quotas = quotas + 1
      quotas_refused = quotas_refused + (fitting[i] and 0 or 1)
    end
  end
  return quotas_decide == 0 or quotas == 0 or quotas_refused < quotas
end

local function transact(values, records, now, quotas_decide)
  local demands, any_always = take_demands()
  local readings, fitting, changed = {}, {}, {}
  for i, demand in ipairs(demands) do
    local fits, wrote = read(records[demand.key], demand, now, readings)
    fitting[i] = fits
    changed[demand.key] = changed[demand.key] or wrote
  end
  local admitted = admits(demands, fitting, quotas_decide)
  if not admitted then
    changed = {}
    if any_always then
      records = decode_all(values)
      for _, demand in ipairs(demands) do
        local wrote = charge_always(records[demand.key], demand, now)
        changed[demand.key] = changed[demand.key] or wrote
      end
    end
  end
  local reply = { pack('<BB', DONE, admitted and 1 or 0) }
  for i, reading in ipairs(readings) do
    reply[i + 1] = pack('<BI7I7I7I7', reading.verdict, reading.wait, reading.used, reading.reset, reading.at)
  end
  return records, changed, table.concat(reply)
end

-- Undoes charges as far as they are still felt.
local function give_back(records, now)
  local changed, count = {}, nil
  count, cursor = unpack('<I2', request, cursor)
  for _ = 1, count do
    local key, receipt, limit = nil, {}, nil
    key, receipt.at, receipt.used_before, receipt.hits, cursor = unpack('<I2I7I7I7', request, cursor)
    limit = take_limit()
    local record = records[key]
    local felt_at = advance_clock(record, now)
    if find_slot(record, limit.tag) then
      local slot = slot_of(record, limit, felt_at)
      limit.algorithm.give_back(limit, slot.state, felt_at, receipt)
      slot.expires = felt_at + limit.algorithm.fresh_in(limit, slot.state, felt_at)
      changed[key] = true
    end
  end
  return records, changed, pack('<BB', DONE, 1)
end

local operation, time_passed_in, quotas_decide, now
operation, time_passed_in, quotas_decide, now, cursor = unpack('<BBBI7', request, cursor)
time_passed_in = time_passed_in == 1
if not time_passed_in then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local values, foreign = read_values()
local records
if values then
  records, foreign = decode_all(values)
end
if not records then
  return pack('<BI7', CORRUPT, foreign)
end
local changed, reply
if operation == GIVE_BACK then
  records, changed, reply = give_back(records, now)
else
  records, changed, reply = transact(values, records, now, quotas_decide)
end
if retime then
  return pack('<BI7', RETIME, retime)
end
for place, key in ipairs(KEYS) do
  if changed[place] then
    write_record(key, records[place], now, time_passed_in)
  end
end
return reply
