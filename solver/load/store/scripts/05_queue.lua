-- Queues: fair between tenants, by priority and age within each. The order is that of WaitingLine in
-- solver/load/store/waiting_line.py, which says where it comes from.
--
-- A lease is {model, state, slots, owner, fill, charges, pools, tenant, priority, work, passed, since, ticket}.
-- A queue's members are the ticket, in 16 digits, the tenant, and the lease; its scores are times of arrival less
-- what a priority is worth.

local needs_recount = false -- a key is missing: recount from the leases
local needs_rejoin = false -- a missing key cannot be rebuilt here: every replica has to report its leases
local RULES = {aging = 30, passes = 4, weights = NOTHING}
local CREDIT = 2      -- requests for each slot of its share that a tenant which comes back has before the others
local PLACES = 4      -- a tenant may hold as many places as this times those that are free

local function read_lease(id)
  local text = call('GET', lease_key(id))
  return text and cmsgpack.unpack(text)
end

local function write_lease(id, lease) call('SET', lease_key(id), cmsgpack.pack(lease)) end

local function up_to(share, slots) return share >= 1 and slots or math.floor(share * slots + 1e-9) end

local function place_of(lease, id) return string.format('%016.0f', lease.ticket) .. (lease.tenant or '') .. '\0' .. id end

local function arrival(m, lease) return lease.since - (m.rules or RULES).aging * lease.priority end

local function enqueue(m, id, lease)
  m.line = nil
  call('ZADD', queue_key(m.name), exact(arrival(m, lease)), place_of(lease, id))
end

local function dequeue(m, id, lease)
  m.line = nil
  call('ZREM', queue_key(m.name), place_of(lease, id))
end

local function account(m, tenant)
  local served = m.served
  if not served then
    served = {}
    m.served = served
  end
  if not served[tenant] then
    local work, turn = string.match(call('HGET', served_key(m.name), 't' .. tenant) or '', '^(%S+) (%S+)$')
    served[tenant] = {num(work, 0), num(turn, 0)}
  end
  return served[tenant]
end

local function set_account(m, tenant, work, turn)
  account(m, tenant)
  m.served[tenant], m.line = {work, turn}, nil
  call('HSET', served_key(m.name), 't' .. tenant, exact(work) .. ' ' .. int(turn))
end

-- The order of lists of numbers.
local function before(a, b)
  for k = 1, #a do
    if a[k] ~= b[k] then return a[k] < b[k] end
  end
  return false
end

-- Where a tenant stands whose lease at some place is next: by its account, then by who came first.
local function standing(account, place) return {account[1], account[2], place[1], place[2]} end

local function first_before(a, b) return before(a.standing, b.standing) end

-- Tenants that wait, each with its leases in order; tenants in the order of their accounts.
local function line_of(m)
  if m.line then return m.line end
  local of, line = {}, {}
  local places = call('ZRANGE', queue_key(m.name), 0, -1, 'WITHSCORES')
  for k = 1, #places, 2 do
    local number, tenant, id = string.match(places[k], '^(%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d)(.*)%z([^%z]*)$')
    if id then
      local entry, place = of[tenant], {num(places[k + 1], 0), num(number, 0)}
      if not entry then
        entry = {tenant = tenant, ids = {}, places = {}, account = account(m, tenant)}
        entry.standing = standing(entry.account, place)
        of[tenant], line[#line + 1] = entry, entry
      end
      entry.ids[#entry.ids + 1], entry.places[#entry.places + 1] = id, place
    else
      needs_recount = true
    end
  end
  table.sort(line, first_before)
  m.line, m.line_of = line, of
  return line
end

-- A tenant that does not wait begins before the least served of the others, or the highest count at which a tenant
-- began where that is more, by two requests for each slot of its share.
local function join_line(m, tenant, work)
  local line, level = line_of(m), nil
  if m.line_of[tenant] then return end
  local weights = (m.rules or RULES).weights
  local total = weights[tenant] or 1
  for _, entry in ipairs(line) do
    level = math.min(level or math.huge, entry.account[1])
    total = total + (weights[entry.tenant] or 1)
  end
  local own = account(m, tenant)
  level = math.max(level or m.level, m.level)
  set_account(m, tenant, math.max(own[1], level - CREDIT * m.slots * work / total), own[2])
  if #line == 0 and call('HLEN', served_key(m.name)) > 1024 then call('DEL', served_key(m.name)) end
end

local function charge_tenant(m, lease)
  local tenant = lease.tenant or ''
  local own, weight = account(m, tenant), 1
  if lease.tenant then weight = (m.rules or RULES).weights[lease.tenant] or 1 end
  m.turns, m.level, m.changed = m.turns + 1, math.max(m.level, own[1]), true
  set_account(m, tenant, own[1] + lease.work / weight, m.turns)
end

local function has_place(m, tenant)
  local free = m.places - m.waiting - m.out_queued
  if free <= 0 then return false end
  if tenant == '' or m.waiting == 0 then return true end
  line_of(m)
  local own = m.line_of[tenant]
  return (own and #own.ids or 0) < PLACES * free
end

local function fits(m, lease)
  if m.active + lease.slots > math.min(granted_here(m.slots), up_to(lease.fill, m.slots)) then return false end
  for _, name in ipairs(lease.pools or NOTHING) do
    local pool = load_pool(name)
    if not pool and call('ZSCORE', POOLS, name) then -- its key was deleted: what runs in it only the replicas know
      needs_rejoin = true
      return false
    end
    if pool and pool.active + lease.slots > granted_here(pool.slots) then return false end
  end
  return true
end

-- The lease that runs next, and those that it passes; nil: no lease. A candidate counts as if it had come last, and
-- leases whose ids are in 'started' as if they ran already.
local function next_in_line(m, candidate, started)
  if m.active >= granted_here(m.slots) then return nil end
  local passes, passed, tenants = (m.rules or RULES).passes, {}, line_of(m)
  local function may_pass(lease)
    for _, other in ipairs(passed) do
      if lease.fill <= other.fill and other.passed + lease.slots > passes * other.slots then return false end
    end
    return true
  end
  if candidate then
    local copy, place, entry = {}, {arrival(m, candidate), math.huge}, m.line_of[candidate.tenant_key]
    for k, other in ipairs(tenants) do copy[k] = other end
    if not entry then
      local own = account(m, candidate.tenant_key)
      copy[#copy + 1] = {tenant = candidate.tenant_key, ids = NOTHING, standing = standing(own, place)}
    elseif before(place, entry.places[1]) then
      for k, other in ipairs(copy) do
        if other == entry then
          copy[k] = {tenant = entry.tenant, ids = entry.ids, standing = standing(entry.account, place)}
        end
      end
    end
    table.sort(copy, first_before)
    tenants = copy
  end
  for _, entry in ipairs(tenants) do
    local pending = candidate and entry.tenant == candidate.tenant_key and candidate or nil
    local function try(id, lease)
      if not fits(m, lease) then
        passed[#passed + 1] = lease
        lease.id = id
      elseif may_pass(lease) then
        return true
      end
    end
    for _, id in ipairs(entry.ids) do
      local lease = read_lease(id)
      if not lease or lease.state ~= 'queued' then
        needs_recount = true
      elseif not (started and started[id]) then
        if pending and arrival(m, pending) < arrival(m, lease) then
          if try('', pending) then return '', pending, passed end
          pending = nil
        end
        if try(id, lease) then return id, lease, passed end
      end
    end
    if pending and try('', pending) then return '', pending, passed end
  end
  return nil
end

local function count_in_pools(lease, sign)
  for _, name in ipairs(lease.pools or NOTHING) do
    local pool = load_pool(name)
    if pool then pool.active = pool.active + sign * lease.slots end
  end
end

-- The waiting leases that a new lease would overtake if it ran now; nil: it would wait. Waiting leases may fit
-- only because another lease gives way to this one in their pools ('leaves': slots by pool): they run first, and
-- this one runs if it fits beside them.
local function passed_with(m, candidate, leaves)
  local active, started = m.active, {}
  local function give_way(sign)
    for name, slots in pairs(leaves) do
      local pool = load_pool(name)
      if pool then pool.active = pool.active + sign * slots end
    end
  end
  give_way(-1)
  local id, first, passed = next_in_line(m, candidate)
  while first and first ~= candidate do
    started[id], m.active = first, m.active + first.slots
    count_in_pools(first, 1)
    id, first, passed = next_in_line(m, candidate, started)
  end
  for _, other in pairs(started) do count_in_pools(other, -1) end
  give_way(1)
  m.active = active
  return first and passed
end

local passed_before = nil -- while a plan may be refused: how often each lease that it passes was passed before

local function note_passed(passed, by)
  for _, lease in ipairs(passed) do
    local id = lease.id
    if id and id ~= '' then
      if passed_before and not passed_before[id] then passed_before[id] = lease.passed end
      lease.passed, lease.id = lease.passed + by.slots, nil
      write_lease(id, lease)
    end
  end
end

-- Measured models remember how many slots were leased when, so that an old measurement can be understood.
local function note_history(m)
  if m.measured < now then return end
  -- Tickets of equal length: changes at one moment are kept in the order of their text.
  local entry = string.format('%016.0f %.0f', next_ticket(), m.active - m.out_active)
  call('ZADD', history_key(m.name), exact(now), entry)
  call('ZREMRANGEBYRANK', history_key(m.name), 0, -4097)
end

local function take_slots(m, lease)
  m.active, m.changed = m.active + lease.slots, true
  for _, name in ipairs(lease.pools or NOTHING) do
    local pool = load_pool(name)
    if pool then pool.active, pool.changed = pool.active + lease.slots, true end
  end
  note_history(m)
end

-- Start the waiting leases that fit. While other replicas have yet to report their leases, no slot is known to be
-- free.
local function promote_one(m)
  if recovering or not m or m.waiting <= 0 or m.held == 1 then return false end
  local id, lease, passed = next_in_line(m)
  if not id then return false end
  dequeue(m, id, lease)
  note_passed(passed, lease)
  charge_tenant(m, lease)
  lease.state, lease.since = 'running', now
  write_lease(id, lease)
  m.waiting = m.waiting - 1
  for _, name in ipairs(lease.pools or NOTHING) do
    local pool = load_pool(name)
    if pool then pool.waiting, pool.changed = math.max(0, pool.waiting - 1), true end
  end
  take_slots(m, lease)
  call('PUBLISH', prefix .. 'promoted:' .. (lease.owner or ''), id)
  return true
end

local function promote(m)
  while promote_one(m) do end
end

local function all_models() return call('ZRANGE', MODELS, 0, -1) end

local function promote_all()
  for _, model in ipairs(all_models()) do promote(load_model(model)) end
end

-- Let those run who wait, on any model, for a pool in which something has come free: who came first goes first.
local function promote_in_pools(names)
  local open = {}
  for _, name in ipairs(names or NOTHING) do
    local pool = load_pool(name)
    if pool and pool.waiting > 0 then open[name] = true end
  end
  if not next(open) then return end
  local waiting = {}
  for _, model in ipairs(all_models()) do
    local m = load_model(model)
    if m and m.waiting > 0 then
      for _, pool in ipairs(chain_of(m) or NOTHING) do
        if open[pool.name] then
          waiting[#waiting + 1] = m
          break
        end
      end
    end
  end
  local progress = true
  while progress do
    progress = false
    local heads = {}
    for k, m in ipairs(waiting) do
      if m.waiting > 0 then
        local head = call('ZRANGE', queue_key(m.name), 0, 0, 'WITHSCORES')
        heads[#heads + 1] = {num(head[2], math.huge), num(string.sub(head[1] or '', 1, 16), math.huge), k, m}
      end
    end
    table.sort(heads, before)
    for _, entry in ipairs(heads) do
      progress = promote_one(entry[4])
      if progress then break end
    end
  end
end
