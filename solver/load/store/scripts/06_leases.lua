-- Leases -----------------------------------------------------------------------------------------------

local function unlist(id)
  if call('ZREM', EXPIRY, id) == 0 then return false end
  leases = leases - 1
  return true
end

local function list_lease(id, ttl)
  local until_s = alive + ttl
  due_alive = math.min(due_alive, until_s)
  return call('ZADD', EXPIRY, exact(until_s), id) == 1
end

-- Count the slots or the queue place of a live lease as free; returns its model.
local function uncount(id, lease)
  if not unlist(id) then return end -- it was not counted
  local m = load_model(lease.model)
  local running = lease.state == 'running'
  for _, name in ipairs(lease.pools or NOTHING) do
    local pool = load_pool(name)
    if pool then
      if running then pool.active = math.max(0, pool.active - lease.slots)
      else pool.waiting = math.max(0, pool.waiting - 1) end
      pool.changed = true
    end
  end
  if not m then return end -- the model was forgotten
  m.changed = true
  if running then
    m.active = math.max(0, m.active - lease.slots)
    note_history(m)
  else
    dequeue(m, id, lease)
    m.waiting = math.max(0, m.waiting - 1)
  end
  return m
end

-- Free the slots or the queue place of a live lease, and let others run.
local function free_capacity(id, lease)
  local m = uncount(id, lease)
  if not m then return end
  promote(m)
  promote_in_pools(lease.pools)
end

local function end_due(id)
  local lease = read_lease(id)
  if lease then
    free_capacity(id, lease)
    lease.state = 'expired'
    write_lease(id, lease)
    schedule(DELETIONS, alive + SETTLE_S, 'l:' .. id)
    local m = load_model(lease.model)
    if m then touch(m) end
  else
    unlist(id)
    needs_recount = true
  end
end

local function expire_leases()
  if alive < due_alive then return end
  for _, id in ipairs(call('ZRANGEBYSCORE', EXPIRY, '-inf', exact(alive), 'LIMIT', 0, AT_ONCE)) do end_due(id) end
  local first = call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')
  due_alive = num(first[2], math.huge)
end

-- The state of a lease, given as it is kept: 'gone' also when it is due and has not been ended yet.
local function live(id, lease)
  if not lease or (lease.state ~= 'running' and lease.state ~= 'queued') then return 'gone' end
  local until_s = call('ZSCORE', EXPIRY, id)
  if not until_s or tonumber(until_s) <= alive then return 'gone' end
  return lease.state
end

local function live_state(id) return live(id, read_lease(id)) end

-- Put a lease with its charges where it counts; what was kept under its id before is replaced.
local function insert(m, id, lease, ttl, kept)
  if kept then
    if call('ZSCORE', EXPIRY, id) then end_due(id) end -- the same id, used again
    call('ZREM', DELETIONS, 'l:' .. id)
  end
  if list_lease(id, ttl) then leases = leases + 1
  else needs_recount = true end -- its key had been deleted, and it was counted
  if lease.state == 'running' then
    take_slots(m, lease)
  else
    lease.ticket = next_ticket()
    m.waiting = m.waiting + 1
    for _, name in ipairs(lease.pools or NOTHING) do
      local pool = load_pool(name)
      if pool then pool.waiting, pool.changed = pool.waiting + 1, true end
    end
    enqueue(m, id, lease)
  end
  write_lease(id, lease)
  touch(m)
end

-- What a lease that gives way leaves to the one that takes its place: slots by pool, and charges by pool and meter.
local function credit_of(id)
  local lease = id and read_lease(id)
  if not lease then return NOTHING, nil end
  local slots, credit = {}, {}
  for _, name in ipairs(lease.pools or NOTHING) do
    if lease.state == 'running' then slots[name] = lease.slots end
  end
  local charges = lease.charges or NOTHING
  for k = 1, #charges, CHARGE do
    local pool, meter = charged(charges, k)
    if meter and string.sub(charges[k], 1, 2) == 'p:' then
      advance(pool, meter)
      local amount, step = charges[k + 2], charges[k + 3]
      credit[charges[k] .. ' ' .. charges[k + 1]] = {amount = counted(pool, meter, amount, step), step = step}
    end
  end
  return slots, credit
end

-- The charges of a lease whose key was deleted; those to sliding windows stay there, since their time is not known.
local function charges_of(m, chain, amounts)
  local charges = {}
  for _, subject in ipairs({m, unpack(chain)}) do
    for _, meter in ipairs(meters_of(subject)) do
      local n, step = #charges, -1
      if meter[5] then step = subject.oldest[meter[1]]
      elseif meter[3] == 0 then step = 0 end
      charges[n + 1], charges[n + 2], charges[n + 3] = subject.subject, meter[1], amounts[1 + meter[2]]
      charges[n + 4], charges[n + 5] = step, subject.resets
    end
  end
  return charges
end

local function names_of(pools)
  if #pools == 0 then return nil end
  local names = {}
  for k, pool in ipairs(pools) do names[k] = pool.name end
  return names
end

local function usage_after(answer, m, chain)
  if m.metered then append_usage(m, answer) end
  for _, pool in ipairs(chain) do
    if pool.metered then append_usage(pool, answer) end
  end
  return answer
end

local HOLDS_QUEUE = {cooldown = true, breaker = true}

-- Whether a model is open, and its queue held, follows from the stops that stand; those that end by themselves are
-- among what ends.
local function follow_stops(m)
  local held, stops = 0, call('HGETALL', stops_key(m.name))
  for k = 1, #stops, 2 do
    if HOLDS_QUEUE[string.match(stops[k], '^(%a+):')] then held = 1 end
    local until_s, timer = num(cjson.decode(stops[k + 1])[5], -1), cjson.encode({'s', m.name, stops[k]})
    if until_s >= 0 and not call('ZSCORE', TIMERS, timer) then schedule(TIMERS, until_s, timer) end
  end
  m.accepting, m.held, m.changed = #stops == 0 and 1 or 0, held, true
end

-- The active stops, as they are kept. Where their key was deleted every replica reports what it knows; where
-- the time is missing at which one ends it is noted again.
local function stops_of(m)
  if m.accepting == 1 then return NOTHING end
  local stops = call('HVALS', stops_key(m.name))
  if #stops == 0 then needs_rejoin = true end
  for _, text in ipairs(stops) do
    local entry = cjson.decode(text)
    local timer = cjson.encode({'s', m.name, entry[1] .. ':' .. entry[2]})
    if num(entry[5], -1) >= 0 and not call('ZSCORE', TIMERS, timer) then needs_recount = true end
  end
  return stops
end

-- An ask is eleven arguments: lease, model, slots, requests, tokens, billionths of a dollar, ttl, queue, fill,
-- priority, tenant.
local ASK = 11

local function acquire(first, instead)
  local id, slots = ARGV[first], num(ARGV[first + 2], 1)
  local m = load_model(ARGV[first + 1])
  if not m then return {'unknown_model', '', ARGV[first + 1]} end
  local chain = chain_of(m)
  if not chain then
    needs_rejoin = true
    return {'epoch'}
  end
  local kept = read_lease(id)
  local known = live(id, kept)
  if known ~= 'gone' then return usage_after({known, ''}, m, chain) end
  if recovering then return {'recovering', exact(recovering_until - alive)} end
  if m.accepting == 0 then return {'not_accepting', '', 'stops', stops_of(m)} end
  local fill, tenant = num(ARGV[first + 8], 1), ARGV[first + 10]
  local most, full, leaves, credit = up_to(fill, m.slots), nil, credit_of(instead)
  for _, pool in ipairs(chain) do
    if slots > pool.slots and pool.slots > 0 then return {'too_large', '', '', pool.subject} end
    if pool.active - (leaves[pool.name] or 0) + slots > granted_here(pool.slots) then full = full or pool end
  end
  local lease = {model = m.name, state = 'running', slots = slots, owner = replica, fill = fill, since = now,
                 pools = names_of(chain), priority = num(ARGV[first + 9], 1), passed = 0,
                 tenant = tenant ~= '' and tenant or nil, work = math.max(num(ARGV[first + 4], 0), slots)}
  local runs, passed = not full and m.active + slots <= math.min(granted_here(m.slots), most), nil
  if runs and m.waiting > 0 then -- in the order in which it would be let in if it waited
    lease.tenant_key = tenant
    join_line(m, tenant, lease.work)
    passed = passed_with(m, lease, leaves)
    runs, lease.tenant_key, lease.id = passed ~= nil, nil, nil
  end
  if not runs then
    if slots > most and m.slots > 0 then return {'too_large', ''} end
    if ARGV[first + 7] ~= '1' then return {'concurrency', '', '', full and full.subject or nil} end
    if not has_place(m, tenant) then return {'queue', '', '', full and full.subject or nil} end
    lease.state = 'queued'
  end
  local amounts = m.metered and {[0] = num(ARGV[first + 3], 0), num(ARGV[first + 4], 0), num(ARGV[first + 5], 0)}
  for _, pool in ipairs(chain) do
    if pool.metered and not amounts then
      amounts = {[0] = num(ARGV[first + 3], 0), num(ARGV[first + 4], 0), num(ARGV[first + 5], 0)}
    end
  end
  if amounts then
    local refused = m.metered and refusal_of(m, amounts) or nil
    for _, pool in ipairs(chain) do
      if not refused and pool.metered then refused = refusal_of(pool, amounts, credit) end
    end
    if refused then return refused end
    lease.charges = {}
    if m.metered then charge_all(m, amounts, lease.charges) end
    for _, pool in ipairs(chain) do
      if pool.metered then charge_all(pool, amounts, lease.charges) end
    end
  end
  if lease.state == 'queued' then join_line(m, tenant, lease.work) end
  if lease.state == 'running' and m.waiting > 0 then
    note_passed(passed or NOTHING, lease)
    charge_tenant(m, lease)
  elseif lease.state == 'running' and lease.tenant and m.places > 0 then
    join_line(m, tenant, lease.work)
    charge_tenant(m, lease)
  end
  insert(m, id, lease, num(ARGV[first + 6], 0), kept)
  return amounts and usage_after({lease.state, ''}, m, chain) or {lease.state, ''}
end

-- Take back a lease as if it had never been granted; no other lease is promoted for it where it leaves 'as_before'.
local function drop(id, as_before)
  local lease = read_lease(id)
  if not lease then return end
  local charges = lease.charges or NOTHING
  for k = 1, #charges, CHARGE do
    local m, meter = charged(charges, k)
    if meter then refund(m, meter, charges[k + 2], charges[k + 3]) end
  end
  if as_before then uncount(id, lease) else free_capacity(id, lease) end
  call('DEL', lease_key(id))
  local m = load_model(lease.model)
  if m then touch(m) end
end

local function release(id, actual)
  local lease = read_lease(id)
  if not lease then return {'unknown'} end
  local was_live = live(id, lease) ~= 'gone'
  if lease.state ~= 'expired' then free_capacity(id, lease) end
  call('DEL', lease_key(id))
  if lease.state == 'expired' then call('ZREM', DELETIONS, 'l:' .. id) end
  local m, answer = load_model(lease.model), {was_live and 'released' or 'expired', lease.model}
  local charges, settled = lease.charges or NOTHING, {}
  for k = 1, #charges, CHARGE do
    local subject, meter = charged(charges, k)
    if meter then
      local estimate, used = charges[k + 2], actual[meter[2]]
      if used then
        advance(subject, meter)
        if used > estimate then charge(subject, meter, used - estimate) end
        if used < estimate then refund(subject, meter, estimate - used, charges[k + 3]) end
      end
      if not settled[subject] then
        settled[subject], settled[#settled + 1] = true, subject
      end
    end
  end
  if m then touch(m) end
  for _, subject in ipairs(settled) do
    subject.changed = true
    append_usage(subject, answer)
  end
  return answer
end

-- Recompute the counts of leases from the leases themselves.
local function recount()
  needs_recount = false
  if not lists_are_whole() then
    needs_rejoin = true
    return
  end
  local active, waiting, count, pools = {}, {}, 0, {}
  local function add(into, lease, amount)
    into['m:' .. lease.model] = (into['m:' .. lease.model] or 0) + amount
    for _, name in ipairs(lease.pools or NOTHING) do into['p:' .. name] = (into['p:' .. name] or 0) + amount end
  end
  for _, id in ipairs(call('ZRANGE', EXPIRY, 0, -1)) do
    local lease = read_lease(id)
    local m = lease and load_model(lease.model)
    if lease and lease.state == 'running' then
      add(active, lease, lease.slots)
      count = count + 1
    elseif lease and lease.state == 'queued' then
      add(waiting, lease, 1)
      count = count + 1
      if m and not call('ZSCORE', queue_key(m.name), place_of(lease, id)) then enqueue(m, id, lease) end
    elseif recovering or lease then
      call('ZREM', EXPIRY, id)
    else
      needs_rejoin = true -- its charges and slots are not known here
    end
  end
  if needs_rejoin then return end
  for _, name in ipairs(call('ZRANGE', POOLS, 0, -1)) do pools['p:' .. name] = true end
  for _, model in ipairs(all_models()) do
    for _, place in ipairs(call('ZRANGE', queue_key(model), 0, -1)) do
      local id = string.match(place, '%z([^%z]*)$')
      local lease = id and read_lease(id)
      if not lease or lease.state ~= 'queued' or lease.model ~= model or not call('ZSCORE', EXPIRY, id) then
        call('ZREM', queue_key(model), place)
      end
    end
    local m = load_model(model)
    if m then
      local has_lost_stops = m.accepting == 0 and call('EXISTS', stops_key(m.name)) == 0
      if has_lost_stops and not (recovering and call('SCARD', prefix .. 'joined') == 0) then
        needs_rejoin = true -- those who have set them know them
      else
        follow_stops(m)
      end
      m.active, m.waiting, m.line = (active[m.subject] or 0) + m.out_active, waiting[m.subject] or 0, nil
      note_history(m)
      touch(m)
      for _, pool in ipairs(chain_of(m) or NOTHING) do pools[pool.subject] = true end
    end
  end
  for subject in pairs(pools) do
    local pool = load(subject)
    if pool then pool.active, pool.waiting, pool.changed = active[subject] or 0, waiting[subject] or 0, true end
  end
  leases = count
  local first = call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')
  due_alive = num(first[2], math.huge)
  for subject in pairs(waiting) do
    if string.sub(subject, 1, 2) == 'm:' then promote(load(subject)) end
  end
end
