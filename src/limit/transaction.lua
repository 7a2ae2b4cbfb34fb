-- The twin of transaction.rs, and the form of a call: one packed request in ARGV, one packed value under each key, one packed
-- reply. store/redis/request.rs writes the requests, store/redis/reply.rs reads the replies.
--
-- The slots of a record are its elements, and so are the limits of a demand; a slot has the fields of its state beside its own.

local VERSION = 3
local MAX_SLOTS = 16
local DONE, RETIME, FOREIGN, BEFORE = 0, 1, 2, 3
local GIVE_BACK, FORGET, USUAL = 2, 3, 4
local CHARGE, REFUND = 0, 2
local ENFORCED, QUOTA = 0, 1
local FITS, PASSES, TRIAL = 4, 8, 16

-- Who passes the time in has a clock of their own, which may be slower than this one: their keys live at least this long.
local PASSED_TIME_TTL_MS = 60000

local NONE = {}

local request, cursor = ARGV[1], 1
local makers, made = { [0] = ban, fixed_window, token_bucket, sliding_window }, {}

-- The algorithm of a tag, or of its first byte.
local function algorithm_of(tag)
  local which = div(fmod(tag, 32), 8)
  if not made[which] then
    made[which] = makers[which]()
  end
  return made[which]
end

local function take_limit()
  local always, calendar, tag, capacity, length, cost
  always, calendar, tag, capacity, length, cost, cursor = unpack('<BBI4I7I7I7', request, cursor)
  local borders
  if calendar == 1 then
    local a, b, c, d, e
    a, b, c, d, e, cursor = unpack('<I7I7I7I7I7', request, cursor)
    borders = { a, b, c, d, e }
  end
  return {
    algorithm = algorithm_of(tag),
    always = always == 1,
    tag = tag,
    capacity = capacity,
    -- The first number of an algorithm: how long a window or a slice is, or what flows into a bucket.
    length = length,
    refill = length,
    cost = cost,
    borders = borders,
  }
end

local function decode(value)
  if not value then
    return { value = value, seen = 0, changed = false }
  end
  local version, seen, at = unpack('<BI7', value)
  if version ~= VERSION then
    error('another version')
  end
  local record, slots, size = { value = value, seen = seen, changed = false }, 0, #value
  while at <= size do
    slots = slots + 1
    record[slots], at = algorithm_of(byte(value, at)).decode(value, at)
  end
  return record
end

-- The records under the keys; or none, and the place of one that is not ours.
local function read_records()
  local records = {}
  for place = 1, #KEYS do
    local value = try('GET', KEYS[place])
    local ours, record = pcall(decode, value)
    if not ours then
      return nil, place
    end
    records[place] = record
  end
  return records
end

local function encode(record)
  local parts = { pack('<BI7', VERSION, record.seen) }
  for i = 1, #record do
    parts[i + 1] = algorithm_of(record[i].tag).encode(record[i])
  end
  return table.concat(parts)
end

local function write_record(key, record, now, time_passed_in)
  if #record == 0 then
    call('DEL', key)
    return
  end
  local expires = now
  for i = 1, #record do
    expires = max(expires, record[i].expires)
  end
  local ttl = max(div_ceil(expires - now, 1000), time_passed_in and PASSED_TIME_TTL_MS or 1)
  call('SET', key, encode(record), 'PX', ttl)
end

-- At the bound, forgets what is as good as fresh, or else what will be so soonest.
local function make_room(record, now)
  if #record < MAX_SLOTS then
    return
  end
  for i = #record, 1, -1 do
    if record[i].expires <= now then
      table.remove(record, i)
    end
  end
  if #record >= MAX_SLOTS then
    local soonest = 1
    for i = 2, #record do
      if record[i].expires < record[soonest].expires then
        soonest = i
      end
    end
    table.remove(record, soonest)
  end
end

local function find_slot(record, tag)
  for i = 1, #record do
    if record[i].tag == tag then
      return record[i]
    end
  end
end

-- The advanced slot of `limit`, which may also be a ban, made if need be.
local function slot_of(record, limit, now)
  local slot = find_slot(record, limit.tag)
  if not slot then
    make_room(record, now)
    slot = limit.algorithm.fresh(limit, now)
    record[#record + 1] = slot
  end
  limit.algorithm.advance(limit, slot, now)
  return slot
end

local function advance_clock(record, now)
  record.seen = max(record.seen, now)
  return record.seen
end

local function apply(record, limit, slot, demand, now)
  if demand.kind == CHARGE then
    limit.algorithm.charge(limit, slot, demand.hits)
  elseif demand.kind == REFUND then
    limit.algorithm.refund(slot, demand.hits)
  else
    return
  end
  slot.expires = now + limit.algorithm.fresh_in(limit, slot, now)
  record.changed = true
end

-- Reads a demand off `record`, and charges it there if it fits. Tells whether it fits.
local function read(record, demand, now, readings)
  now = advance_clock(record, now)
  local first, fits = #readings, true
  local banned = demand.ban and demand.kind ~= REFUND and find_slot(record, demand.ban.tag)
  banned = banned and banned.banned_until > now and banned.banned_until - now
  for i = 1, #demand do
    local limit = demand[i]
    local slot = slot_of(record, limit, now)
    local says, wait = ALLOWED, 0
    if banned then
      says, wait = BANNED, banned
    elseif demand.kind ~= REFUND then
      says, wait = verdict(limit, slot, now, demand.hits)
    end
    fits = fits and says == ALLOWED
    local used = limit.algorithm.used(slot)
    readings[first + i] = { verdict = says, wait = wait, used = used, reset = 0, at = now }
  end
  for i = 1, #demand do
    local limit, reading = demand[i], readings[first + i]
    local slot = slot_of(record, limit, now)
    if fits or limit.always then
      apply(record, limit, slot, demand, now)
    end
    if reading.verdict == WAIT then
      local later, wait = verdict(limit, slot, now, demand.hits)
      if later ~= ALLOWED then
        reading.verdict, reading.wait = later, wait
      end
    end
    reading.reset = limit.algorithm.fresh_in(limit, slot, now)
  end
  demand.first = first
  demand.fits = fits
  demand.counts = demand.ban and not banned and demand.kind == CHARGE and demand.role == ENFORCED
  return fits
end

-- Charges those limits of a refused request that are charged always.
local function charge_always(record, demand, now)
  now = advance_clock(record, now)
  for i = 1, #demand do
    if demand[i].always then
      apply(record, demand[i], slot_of(record, demand[i], now), demand, now)
    end
  end
end

-- Counts a refusal, and tells how long the ban lasts that there is now.
local function refuse(record, rule, now)
  now = advance_clock(record, now)
  local slot = slot_of(record, rule, now)
  rule.algorithm.refuse(rule, slot, now)
  slot.expires = now + rule.algorithm.fresh_in(rule, slot, now)
  record.changed = true
  return minus(slot.banned_until, now)
end

-- Counts for a demand with a ban that its request was refused. A refusal that begins the ban reads as banned, if it is this
-- demand that refuses.
local function count_refusal(record, demand, now, readings)
  local wait = refuse(record, demand.ban, now)
  if wait > 0 and not demand.fits then
    for i = demand.first + 1, demand.first + #demand do
      readings[i].verdict, readings[i].wait = BANNED, wait
    end
  end
end

local function take_ban()
  local tag, after, window, first, longest
  tag, after, window, first, longest, cursor = unpack('<I4I4I7I7I7', request, cursor)
  return { algorithm = algorithm_of(tag), tag = tag, after = after, window = window, first = first, longest = longest }
end

local function take_candidates()
  local candidates, count = {}, nil
  count, cursor = unpack('<B', request, cursor)
  for i = 1, count do
    local instead_of, role
    instead_of, role, cursor = unpack('<BB', request, cursor)
    candidates[i] = take_limit()
    candidates[i].instead_of, candidates[i].role = instead_of, role
  end
  return candidates
end

local function take_demand()
  local key, kind, role, hits, limits, more
  key, kind, role, hits, limits, more, cursor = unpack('<I2BBI7BB', request, cursor)
  local demand = { key = key, kind = kind, role = role, hits = hits, any_always = false, candidates = NONE }
  demand.ban = more % 2 == 1 and take_ban()
  for i = 1, limits do
    demand[i] = take_limit()
    demand.any_always = demand.any_always or demand[i].always
  end
  if more > 1 then
    demand.candidates = take_candidates()
  end
  return demand
end

-- Reads the demands and charges them, if they are admitted; the readings, and whether all of them fit. Quota demands refuse
-- only if all of the request's are here.
local function decide(records, demands, now, quotas_decide)
  local any_writes, refused, quotas, quotas_refused = false, false, 0, 0
  local readings, all_fit = {}, true
  for i = 1, #demands do
    local demand = demands[i]
    local fits = read(records[demand.key], demand, now, readings)
    all_fit = all_fit and fits
    any_writes = any_writes or demand.any_always or demand.counts or #demand.candidates > 0
    if demand.role == ENFORCED then
      refused = refused or not fits
    elseif demand.role == QUOTA then
      quotas = quotas + 1
      quotas_refused = quotas_refused + (fits and 0 or 1)
    end
  end
  local admitted = not refused
  if quotas_decide == 1 and quotas > 0 and quotas_refused == quotas then
    admitted = false
  end
  if not admitted then
    for i = 1, #records do
      records[i] = any_writes and decode(records[i].value) or { changed = false }
    end
    for i = 1, any_writes and #demands or 0 do
      local demand = demands[i]
      local record = records[demand.key]
      charge_always(record, demand, now)
      if demand.counts then
        count_refusal(record, demand, now, readings)
      end
    end
  end
  return admitted, readings, all_fit
end

local function transact(records, now, quotas_decide, hits)
  local count, tried, demands = nil, false, {}
  count, cursor = unpack('<I2', request, cursor)
  for i = 1, count do
    local demand = take_demand()
    demands[i] = demand
    demand.hits = hits or demand.hits
    tried = tried or #demand.candidates > 0
  end
  local admitted, readings, all_fit = decide(records, demands, now, quotas_decide)
  local reply, live = { pack('<BB', DONE, admitted and 1 or 0) }, #readings
  local trials = NONE
  if tried then
    trials = candidates(MAX_SLOTS, decode, find_slot, decide)(records, demands, now, quotas_decide)
  end
  for i = 1, live + #trials do
    local reading, found = readings[i], 0
    if not reading then
      reading = trials[i - live]
      found = TRIAL + (reading.fits and FITS or 0) + (reading.passes and PASSES or 0)
    end
    local said = reading.verdict + found
    reply[i + 1] = pack('<BI7I7I7I7', said, reading.wait, reading.used, reading.reset, reading.at)
  end
  return table.concat(reply), all_fit
end

-- A call that might have been usual, and is not for what stands under its keys: see script.lua.
local function answer_usual(records, now)
  local reply, runs, begin = { pack('<BI7', BEFORE, now) }, nil, nil
  for i = 1, #records do
    local value = records[i].value or ''
    reply[i + 1] = pack('<I2', #value) .. value
  end
  runs, cursor = unpack('<I2', request, cursor)
  local first_run = cursor
  begin = cursor + 9 * runs
  cursor = begin
  if runs == 0 then
    transact(records, now, 1)
  end
  for i = 0, runs - 1 do
    local many, hits = unpack('<I2I7', request, first_run + 9 * i)
    -- As many at once as have room: those that have are the first of the run, which may be long.
    local step = 2 ^ 15
    while step >= 1 do
      if step <= many then
        local kept, changed = #records[1] > 0 and encode(records[1]) or false, records[1].changed
        cursor = begin
        local _, fit = transact(records, now, 1, step * hits)
        if fit then
          many = many - step
        else
          records[1] = decode(kept)
          records[1].changed = changed
        end
      end
      step = step / 2
    end
  end
  return table.concat(reply)
end

-- Undoes charges as far as they are still felt, and counts the refusal for bans.
local function give_back(records, now)
  local count
  count, cursor = unpack('<I2', request, cursor)
  for _ = 1, count do
    local key, at, used_before, hits
    key, at, used_before, hits, cursor = unpack('<I2I7I7I7', request, cursor)
    local limit, record = take_limit(), records[key]
    local felt_at = advance_clock(record, now)
    if find_slot(record, limit.tag) then
      local slot = slot_of(record, limit, felt_at)
      limit.algorithm.give_back(limit, slot, felt_at, { at = at, used_before = used_before, hits = hits })
      slot.expires = felt_at + limit.algorithm.fresh_in(limit, slot, felt_at)
      record.changed = true
    end
  end
  count, cursor = unpack('<I2', request, cursor)
  for _ = 1, count do
    local key
    key, cursor = unpack('<I2', request, cursor)
    refuse(records[key], take_ban(), now)
  end
  return pack('<BB', DONE, 1)
end

-- Forgets the slots of these tags under the one key.
local function forget(records)
  local count, record = nil, records[1]
  count, cursor = unpack('<I2', request, cursor)
  for _ = 1, count do
    local tag
    tag, cursor = unpack('<I4', request, cursor)
    for i = #record, 1, -1 do
      if record[i].tag == tag then
        table.remove(record, i)
        record.changed = true
      end
    end
  end
  return pack('<BB', DONE, 1)
end

local operation, time_passed_in, quotas_decide, now
operation, time_passed_in, quotas_decide, now, cursor = unpack('<BBBI7', request, cursor)
if time_passed_in == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end
local records, foreign = read_records()
if not records then
  return pack('<BI7', FOREIGN, foreign)
end
local decide = ({ [GIVE_BACK] = give_back, [FORGET] = forget, [USUAL] = answer_usual })[operation] or transact
local reply = decide(records, now, quotas_decide)
if retime then
  return pack('<BI7', RETIME, retime)
end
for place = 1, #KEYS do
  if records[place].changed then
    write_record(KEYS[place], records[place], now, time_passed_in == 1)
  end
end
return reply
