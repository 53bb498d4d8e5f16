-- Models and pools: limits, work from outside, stops ------------------------------------------------------
local function outside_key(model) return prefix .. 'o:' .. model end

-- List a model or pool; returns whether it was not listed before.
local function list(set, name)
  local is_new = call('ZADD', set, 'NX', int(next_ticket()), name) == 1
  if is_new then listed = listed + 1 end
  return is_new
end

-- Remember the ends of a calendar's periods, which only a client can compute: it sends {first, seconds apart, how many}.
local function note_calendars(text)
  if not text or text == '' then return end
  for calendar, runs in pairs(cjson.decode(text)) do
    local key, last = prefix .. 'c:' .. calendar, runs[#runs]
    if not (call('ZSCORE', key, exact(runs[1][1])) and call('ZSCORE', key, exact(last[1] + last[2] * (last[3] - 1)))) then
      call('ZREMRANGEBYSCORE', key, '-inf', exact(wall - 86400))
      local entries = {}
      for _, run in ipairs(runs) do
        for k = 0, run[3] - 1 do
          local second = exact(run[1] + run[2] * k)
          entries[#entries + 1], entries[#entries + 2] = second, second
        end
      end
      call('ZADD', key, unpack(entries))
    end
  end
end

-- Limits are twelve fields: m or p, name, slots, queue, three meter limits (-1: none), budget period (0: none), and
-- as JSON or empty: further limits, pools, rules of the queue, ends of calendars' periods. A replica
-- that joins sends the last once, for all.
local FIELDS = 12

local function configure(limits, set_at)
  local subject, name = limits[1] .. ':' .. limits[2], limits[2]
  local key, is_model = prefix .. subject, limits[1] == 'm'
  local m, before = load(subject), nil
  if m then before = m.period end
  note_calendars(limits[12])
  local rules_before = m and m.rules_text
  call('HSET', key, 'limits', struct.pack(LIMITS, num(limits[3], 0), num(limits[4], 0), num(limits[5], -1), num(limits[6], -1),
    num(limits[7], -1), num(limits[8], 0)), 'set', exact(set_at))
  for k, field in ipairs({'further', 'pools', 'rules'}) do
    if limits[8 + k] ~= '' then call('HSET', key, field, limits[8 + k]) else call('HDEL', key, field) end
  end
  if not m then
    local was_known = call('ZSCORE', is_model and MODELS or POOLS, name) ~= false or not lists_are_whole()
    needs_recount = was_known or needs_recount -- its key was deleted: it may have leases,
    -- and what was used of it is stored in the replicas alone: those that have reported do so again
    needs_rejoin = needs_rejoin or (was_known and (not recovering or call('SCARD', prefix .. 'joined') > 0))
    list(is_model and MODELS or POOLS, name)
    if is_model then call('ZREM', FORGOTTEN, name) end
    loaded[subject] = nil
    m = load(subject)
    -- What leases of a forgotten model or pool of this name were charged with is not settled with the new one's usage.
    if not (was_known or recovering or op == 'join') then m.resets = version end
  else
    if before ~= num(limits[8], 0) then -- what was spent counts from now on
      local used = advance(m, primary(m, 2))
      call('DEL', window_key(subject, '2'))
      m.used['2'], m.oldest['2'], m.period = 0, -1, num(limits[8], 0)
      add_usage(m, primary(m, 2), used)
    end
    m.changed = true
    write_back()
    loaded[subject] = nil
    m = load(subject)
  end
  if m.rules_text ~= rules_before and m.waiting > 0 then -- those who wait are put in line anew
    for _, place in ipairs(call('ZRANGE', queue_key(name), 0, -1)) do
      local id = string.match(place, '%z([^%z]*)$')
      local lease = id and read_lease(id)
      if lease then call('ZADD', queue_key(name), exact(arrival(m, lease)), place) end
    end
  end
  for _, meter in ipairs(meters_of(m)) do advance(m, meter) end
  touch(m)
  if is_model then promote(m) else
    m.changed = true
    promote_in_pools({name})
  end
end

-- Work from outside is what callers have added, and what was measured beyond the leases.
local function set_outside(m, added_a, added_q, seen_a, seen_q)
  local out_active, out_queued = math.max(0, added_a + seen_a), math.max(0, added_q + seen_q)
  m.active = m.active - m.out_active + out_active
  m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a, m.seen_q = out_active, out_queued, added_a, added_q, seen_a, seen_q
  m.changed = true
end

-- What the calling replica has added, so that it can report it again, and how often that has changed: of the
-- reported and the stored value, the one with more changes is newer.
local function read_part(text)
  local active, queued, changes = string.match(text or '', '^(%-?%d+) (%-?%d+) ?(%d*)$')
  return num(active, 0), num(queued, 0), num(changes, 0)
end

local function own_part(model) return read_part(call('HGET', outside_key(model), replica)) end

local function set_own_part(model, active, queued, changes)
  call('HSET', outside_key(model), replica, int(active) .. ' ' .. int(queued) .. ' ' .. int(changes))
end

-- With a floor at zero. Until every replica has reported, a sum may be below it: the reports still to come make up for it.
local function add(before, change, seen) return math.max(before + change, math.min(before, -seen)) end

local function adjust(m, active, queued)
  local new_a, new_q = add(m.added_a, active, m.seen_a), add(m.added_q, queued, m.seen_q)
  local own_a, own_q, changes = own_part(m.name)
  own_a, own_q, changes = own_a + new_a - m.added_a, own_q + new_q - m.added_q, changes + 1
  set_own_part(m.name, own_a, own_q, changes)
  set_outside(m, new_a, new_q, m.seen_a, m.seen_q)
  touch(m)
  promote(m)
  return {'ok', int(own_a), int(own_q), int(changes)}
end

-- Slots that were leased when a measurement was made, as far as that is known.
local HISTORY_S = 600

local function leased_before(m, age_s)
  local leased = m.active - m.out_active
  local before = leased
  if age_s > 0 then
    if m.measured < now then
      call('DEL', history_key(m.name)) -- changes since then were not noted
    else
      local kept = call('ZREVRANGEBYSCORE', history_key(m.name), exact(now - age_s), '-inf', 'LIMIT', 0, 1)
      if kept[1] then before = num(string.match(kept[1], ' (%d+)$'), leased) end
    end
    m.measured = now + HISTORY_S
    note_history(m)
    schedule(DELETIONS, alive + 2 * HISTORY_S, 'h:' .. m.name)
  end
  return before
end

local function observe(m, active, queued, ttl, age_s)
  local seen_a = math.max(0, active - leased_before(m, age_s))
  local seen_q = math.max(0, queued - m.waiting)
  set_own_part(m.name, own_part(m.name))
  local parts, own_changes = call('HGETALL', outside_key(m.name)), 0
  for k = 1, #parts, 2 do -- what any replica has added before is part of the totals, and not reported again
    local _, _, changes = read_part(parts[k + 1])
    call('HSET', outside_key(m.name), parts[k], '0 0 ' .. int(changes + 1))
    if parts[k] == replica then own_changes = changes + 1 end
  end
  set_outside(m, 0, 0, seen_a, seen_q)
  if ttl then schedule(TIMERS, now + ttl, cjson.encode({'o', m.name}))
  else call('ZREM', TIMERS, cjson.encode({'o', m.name})) end
  touch(m)
  promote(m)
  return {'ok', '0', '0', int(own_changes), int(seen_a), int(seen_q)}
end

-- Remember, until every replica has reported, that a stop was lifted, all stops of an owner, or all leases of a model were
-- ended ('leases'): reports must not bring them back.
local function note_lifted(model, key, at_s)
  local place = cjson.encode({model, key})
  call('HSET', prefix .. 'lifted', place, exact(math.max(num(call('HGET', prefix .. 'lifted', place), 0), at_s)))
end

local function lifted_at(model, key) return num(call('HGET', prefix .. 'lifted', cjson.encode({model, key})), -1) end

local function stops_changed(m)
  follow_stops(m)
  version = version + 1
  if m.held == 0 then promote(m) end
end

-- A stop is kept as {owner, name, reason, since, until or -1, order}; its key is owner:name.
local function stop(m, owner, name, reason, since, until_s, extend)
  local key = owner .. ':' .. name
  local before = call('HGET', stops_key(m.name), key)
  if before and extend then
    local ends = cjson.decode(before)[5]
    if tonumber(ends) < 0 or (tonumber(until_s) >= 0 and tonumber(ends) >= tonumber(until_s)) then return before end
  end
  local text = cjson.encode({owner, name, reason, since, until_s, int(next_ticket())})
  call('HSET', stops_key(m.name), key, text)
  if tonumber(until_s) >= 0 then schedule(TIMERS, tonumber(until_s), cjson.encode({'s', m.name, key}))
  else call('ZREM', TIMERS, cjson.encode({'s', m.name, key})) end
  stops_changed(m)
  return text
end

local function resume(m, owner, name, every_name)
  local lifted = {}
  if recovering then note_lifted(m.name, every_name and owner or owner .. ':' .. name, now) end
  for _, key in ipairs(call('HKEYS', stops_key(m.name))) do
    if key == owner .. ':' .. name or (every_name and string.match(key, '^(%a+):') == owner) then
      call('HDEL', stops_key(m.name), key)
      lifted[#lifted + 1] = key
      call('ZREM', TIMERS, cjson.encode({'s', m.name, key}))
    end
  end
  if #lifted > 0 then stops_changed(m) end
  return lifted
end

local function run_timers()
  for _, text in ipairs(call('ZRANGEBYSCORE', TIMERS, '-inf', exact(now), 'LIMIT', 0, AT_ONCE)) do
    local entry = cjson.decode(text)
    call('ZREM', TIMERS, text)
    local m = entry[1] ~= 'r' and load_model(entry[2])
    if entry[1] == 'r' and recovering then schedule(TIMERS, recovering_until + lag, text)
    elseif entry[1] == 'r' then promote_all()
    elseif m then
      if entry[1] == 'o' then
        set_outside(m, m.added_a, m.added_q, 0, 0)
        version = version + 1
        promote(m)
      elseif call('HDEL', stops_key(m.name), entry[3]) == 1 then
        stops_changed(m)
      end
    end
  end
end

local function delete_due_keys()
  for _, key in ipairs(call('ZRANGEBYSCORE', DELETIONS, '-inf', exact(alive), 'LIMIT', 0, 200)) do
    call('DEL', prefix .. key)
    call('ZREM', DELETIONS, key)
  end
end

local function first_of(set)
  local first = call('ZRANGE', set, 0, 0, 'WITHSCORES')
  return num(first[2], math.huge)
end

-- What ends by itself; afterwards the time of the next such event is known.
local function run_due()
  if now < due then return end
  run_timers()
  delete_due_keys()
  call('ZREMRANGEBYSCORE', RECENT, '-inf', exact(metered))
  due = math.min(first_of(TIMERS), first_of(DELETIONS) + lag, first_of(RECENT) + now - metered)
end

local function end_leases(model)
  local ended, m, pools = 0, load_model(model), {}
  if recovering then note_lifted(model, 'leases', now) end
  for _, id in ipairs(call('ZRANGE', EXPIRY, 0, -1)) do
    local lease = read_lease(id)
    if lease and lease.model == model then
      ended = ended + 1
      unlist(id)
      if lease.state == 'queued' then dequeue(m, id, lease) end
      for _, name in ipairs(lease.pools or NOTHING) do
        local pool = load_pool(name)
        if pool then
          if lease.state == 'running' then pool.active = math.max(0, pool.active - lease.slots)
          else pool.waiting = math.max(0, pool.waiting - 1) end
          pool.changed, pools[name] = true, true
        end
      end
      lease.state = 'expired'
      write_lease(id, lease)
      schedule(DELETIONS, alive + SETTLE_S, 'l:' .. id)
    end
  end
  m.active, m.waiting = m.out_active, 0
  note_history(m)
  touch(m)
  local names = {}
  for name in pairs(pools) do names[#names + 1] = name end
  promote_in_pools(names)
  return ended
end

local function delete_subject(m)
  local keys = {prefix .. m.subject}
  for _, meter in ipairs(meters_of(m)) do keys[#keys + 1] = window_key(m.subject, meter[1]) end
  for key in pairs(m.used) do keys[#keys + 1] = window_key(m.subject, key) end
  call('DEL', unpack(keys))
  loaded[m.subject] = false
  version = version + 1
end

local function forget(model)
  local m = load_model(model)
  if not m then return end
  end_leases(model)
  for _, key in ipairs(call('HKEYS', stops_key(model))) do
    call('ZREM', TIMERS, cjson.encode({'s', model, key}))
  end
  call('ZREM', TIMERS, cjson.encode({'o', model}))
  delete_subject(m)
  call('DEL', stops_key(model), outside_key(model), queue_key(model), served_key(model), history_key(model))
  listed = listed - call('ZREM', MODELS, model)
  call('ZREMRANGEBYSCORE', FORGOTTEN, '-inf', exact(now - 86400))
  call('ZADD', FORGOTTEN, exact(now), model) -- replicas that still list it must not restore it
end

-- Remove a pool that no model or pool draws on; returns the names of those that do.
local function forget_pool(pool)
  local users = {}
  for _, kind in ipairs({{MODELS, 'm:'}, {POOLS, 'p:'}}) do
    for _, name in ipairs(call('ZRANGE', kind[1], 0, -1)) do
      local m = load(kind[2] .. name)
      for _, drawn in ipairs(m and m.pools or NOTHING) do
        if drawn == pool then users[#users + 1] = name end
      end
    end
  end
  local m = load_pool(pool)
  if #users > 0 or not m then return users end
  delete_subject(m)
  listed = listed - call('ZREM', POOLS, pool)
  return users
end

-- Count usage from nothing again. What leases in flight were charged with before is not taken back later.
local function reset_usage(m)
  for key in pairs(m.used) do
    call('DEL', window_key(m.subject, key))
    if recovering then call('HDEL', SINCE_LOSS, m.subject .. ' ' .. key) end
    m.used[key] = 0
    if #key == 1 then m.oldest[key] = -1 end
  end
  for _, meter in ipairs(meters_of(m)) do
    if not meter[5] then m.oldest[meter[1]] = -1 end
  end
  m.resets, m.usage = m.resets + 1, m.usage + 1
  touch(m)
end

local function row(m)
  local used = {}
  for _, meter in ipairs(meters_of(m)) do
    used[#used + 1], used[#used + 2] = meter[1], int(advance(m, meter))
  end
  local stops = stops_of(m)
  return {int(m.active), int(m.waiting + m.out_queued), recovering and '0' or int(m.accepting), exact(now - m.updated_s),
          int(m.slots), int(m.places), int(m.limit0), int(m.limit1), int(m.limit2), exact(m.period), used, stops,
          m.further_text or '', m.pools_text or '', m.rules_text or '', exact(m.set_at)}
end
