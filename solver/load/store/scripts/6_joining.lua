-- Joining after a start, a restart of the server, or a partition ----------------------------------------

-- What a replica remembers is told to a server that has lost its memory.
local function told(order, epoch)
  for _, lease in ipairs(order.leases) do -- they are running, whether they still fit or not
    -- the server of the caller's epoch knows better which of those it granted have ended
    if (order.epoch ~= epoch or lease.here) and live_state(lease.id) == 'gone'
       and call('EXISTS', model_key(lease.model)) == 1 then
      local period = num(call('HGET', model_key(lease.model), 'period'), 0)
      local amounts = {[0] = lease.amounts[1], lease.amounts[2], lease.amounts[3]}
      local charged = call('HMGET', lease_key(lease.id), 'a0', 'a1', 'a2', 's0', 's1', 's2')
      if charged[1] then amounts = {[0] = 0, 0, 0} end -- it ended before its holder, whose clock is slower, thinks
      insert(lease.id, lease.model, lease.state, lease.slots, lease.ttl_s, amounts, period, replica, lease.fill)
      if charged[1] then
        call('HSET', lease_key(lease.id), 'a0', charged[1], 'a1', charged[2] or 0, 'a2', charged[3] or 0,
             's0', charged[4] or 0, 's1', charged[5] or 0, 's2', charged[6] or 0)
      end
    end
  end
  if not recovering then return end
  for _, entry in ipairs(order.models) do
    local model = entry.limits[1]
    local period, changes = num(call('HGET', model_key(model), 'period'), 0), entry.used[4]
    for kind = 0, changes > num(call('HGET', model_key(model), 'usage'), 0) and 2 or -1 do
      local window, known = window_of(kind, period), entry.used[kind + 1]
      local used = advance_meter(model, kind, window)
      if known > used then charge(model, kind, known - used, window) end
      if kind == 2 then call('HSET', model_key(model), 'usage', int(changes)) end
    end
  end
end

-- What somebody set on purpose outlives the server's memory, unless it was lifted later.
local function tell_settings(order)
  for _, entry in ipairs(order.lifted) do
    local key = cjson.encode({entry[1], entry[2]})
    local before = num(call('HGET', prefix .. 'lifted', key), 0)
    call('HSET', prefix .. 'lifted', key, exact(math.max(before, num(entry[3], 0))))
    local standing = call('HGET', stops_key(entry[1]), entry[2])
    if standing and num(cjson.decode(standing)[4], 0) <= num(entry[3], 0) then
      call('HDEL', stops_key(entry[1]), entry[2])
      stops_changed(entry[1])
    end
  end
  for _, entry in ipairs(order.stops) do -- {model, owner, name, reason, since, until}
    local key = cjson.encode({entry[1], entry[2] .. ':' .. entry[3]})
    local lifted = num(call('HGET', prefix .. 'lifted', key), -1)
    local over = num(entry[6], -1) >= 0 and num(entry[6], -1) <= now
    if lifted < num(entry[5], 0) and not over and call('EXISTS', model_key(entry[1])) == 1 then
      stop(entry[1], entry[2], entry[3], entry[4], entry[5], entry[6], true)
    end
  end
  for _, entry in ipairs(order.outside) do -- {model, added active, queued, changes, seen active, queued, ttl}
    local model = entry[1]
    if call('EXISTS', model_key(model)) == 1 then
      local added_a, added_q, seen_a, seen_q = outside_of(model)
      local own_a, own_q, changes = own_part(model)
      if entry[4] > changes then -- else the server knows better
        set_own_part(model, entry[2], entry[3], entry[4])
        added_a, added_q = added_a + entry[2] - own_a, added_q + entry[3] - own_q
      end
      set_outside(model, added_a, added_q, math.max(seen_a, entry[5]), math.max(seen_q, entry[6]))
      if entry[7] >= 0 then expect(TIMERS, exact(now + entry[7]), cjson.encode({'o', model})) end
    end
  end
end

-- What the replica has added so far, also before it was started anew: {model, active, queued, changes} of each.
local function parts_of_caller()
  local parts = {}
  for _, model in ipairs(call('ZRANGE', MODELS, 0, -1)) do
    local active, queued, changes = own_part(model)
    if changes > 0 then parts[#parts + 1] = {model, int(active), int(queued), int(changes)} end
  end
  return parts
end

-- A server that has forgotten the time may have begun another: no lease lives longer than any may.
local function limit_leases(max_ttl)
  for _, id in ipairs(call('ZRANGEBYSCORE', EXPIRY, '(' .. exact(alive + max_ttl), '+inf')) do
    call('ZADD', EXPIRY, exact(alive + max_ttl), id)
  end
end

local function join(order)
  local known = call('HMGET', META, 'run_id', 'epoch', 'schema')
  if known[3] and known[3] ~= order.schema then return {'schema', known[3]} end
  -- A message that comes late, after others of the same replica, must not bring back what it said then.
  local process, number = string.match(call('HGET', prefix .. 'processes', replica) or '', '^(%S+) (%d+)$')
  if process and ((process == order.process and num(number, 0) >= order.number)
                  or (process ~= order.process and order.number > 1)) then
    return {'stale'}
  end
  if call('HLEN', prefix .. 'processes') > 4096 then call('DEL', prefix .. 'processes') end
  call('HSET', prefix .. 'processes', replica, order.process .. ' ' .. int(order.number))
  note_time()
  local epoch = known[2]
  if known[1] ~= order.run_id or not epoch then -- leases and usage may be missing until all have told
    epoch = order.token
    local version = math.max(num(call('HGET', META, 'version'), 0), order.version)
    recovering = true
    meta[5] = exact(alive + order.max_ttl_s)
    call('HSET', META, 'schema', order.schema, 'run_id', order.run_id, 'epoch', epoch,
         'version', int(version + 1), 'recovering_until', meta[5], 'max_gap', exact(order.max_ttl_s),
         'models', call('ZCARD', MODELS))
    call('HSET', META, 'due', exact(now))
    expect(TIMERS, exact(alive + order.max_ttl_s + lag), cjson.encode({'r'}))
    call('DEL', JOINED, prefix .. 'lifted')
    if not meta[2] then limit_leases(order.max_ttl_s) end
    recount()
  end
  expire_leases()
  local is_new = false
  for _, entry in ipairs(order.models) do
    local model = entry.limits[1]
    if not call('ZSCORE', FORGOTTEN, model) then
      if call('HEXISTS', model_key(model), 'max_concurrent') == 0 then
        configure(entry.limits)
        is_new = true
      end
      list(model)
    end
  end
  if is_new then recount() end -- it may have leases from before
  told(order, epoch)
  if order.epoch ~= epoch and order.epoch ~= '' then tell_settings(order) end
  if order.counted then call('SADD', JOINED, replica) end
  if call('SCARD', JOINED) >= order.replicas then
    call('HSET', META, 'recovering_until', 0)
    call('DEL', prefix .. 'lifted')
    if recovering then
      recovering = false
      call('ZREM', TIMERS, cjson.encode({'r'}))
      promote_all()
    end
  end
  call('ZREMRANGEBYSCORE', MEMBERS, '-inf', exact(now - math.max(absent_s, 3600)))
  return {'joined', epoch, parts_of_caller()}
end
