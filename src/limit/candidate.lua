-- The twin of candidate.rs. What it needs of transaction.lua, which runs after it, is handed in.

local function candidates(MAX_SLOTS, decode, find_slot, decide)
  local PEEK = 1

  -- The demands as if the candidates of one counter were the limits, and the places of those that have one.
  local function tried(demands, key, tag)
    local world, places = {}, {}
    for i = 1, #demands do
      local demand, instead = demands[i], {}
      for name, value in pairs(demand) do
        instead[name] = value
      end
      for j = 1, demand.key == key and #demand.candidates or 0 do
        local candidate = demand.candidates[j]
        if candidate.tag == tag then
          local place = candidate.instead_of > 0 and candidate.instead_of or #demand + 1
          instead[place], instead.role = candidate, candidate.role
          places[#places + 1] = { demand = i, limit = place }
          break
        end
      end
      instead.any_always = false
      for j = 1, #instead do
        instead.any_always = instead.any_always or instead[j].always
      end
      instead.candidates = {}
      world[i] = instead
    end
    return world, places
  end

  -- Keeps the state of a candidate. No live limit makes way for it, and one that the request has only read stays unread.
  local function keep(record, copy, tag)
    local slot = find_slot(copy, tag)
    record = record.changed and record or decode(record.value)
    local place = #record + 1
    for i = 1, #record do
      if record[i].tag == tag then
        place = i
      end
    end
    if place <= MAX_SLOTS then
      record[place], record.changed = slot, true
      record.seen = max(record.seen, copy.seen)
    end
    return record
  end

  local function is_charged(world, places, passes)
    for i = 1, #places do
      local demand = world[places[i].demand]
      if demand.kind ~= PEEK and (demand[places[i].limit].always or demand.fits and passes) then
        return true
      end
    end
    return false
  end

  -- Tries all candidates, in their order, and charges them on the records as the request leaves them. What each said, with
  -- whether its demand would have room and the request would pass.
  return function(records, demands, now, quotas_decide)
    local trials, worlds = {}, {}
    for i = 1, #demands do
      local key = demands[i].key
      for j = 1, #demands[i].candidates do
        local tag = demands[i].candidates[j].tag
        local name = key * 2 ^ 32 + tag
        if not worlds[name] then
          local world, places = tried(demands, key, tag)
          local copies = {}
          for k = 1, #records do
            copies[k] = decode(records[k].value)
          end
          local passes, readings = decide(copies, world, now, quotas_decide)
          if is_charged(world, places, passes) then
            records[key] = keep(records[key], copies[key], tag)
          end
          worlds[name] = { next = 1, world = world, places = places, passes = passes, readings = readings }
        end
        local found = worlds[name]
        local place = found.places[found.next]
        local demand = found.world[place.demand]
        found.next = found.next + 1
        local trial = found.readings[demand.first + place.limit]
        trial.fits, trial.passes = demand.fits, found.passes
        trials[#trials + 1] = trial
      end
    end
    return trials
  end
end
