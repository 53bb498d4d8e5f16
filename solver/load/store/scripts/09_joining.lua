-- Joining after a start, a restart of the server, or a partition ----------------------------------------

local join

if op == 'join' then -- making these functions takes longer than most operations
  local JOINED, RESTORED = prefix .. 'joined', prefix .. 'restored'
  local caller_epoch -- which the caller joined last
  local knows_caller -- whether this server, or the one that it was copied from, has taken that joining
  local CLOCKS_DIFFER = 1.1 -- how much slower than a caller's clock this server's may be
  local LATEST_S = 60 -- all of a window this short counts as used now, where a server has lost its last writes

  local function is_short(meter) return meter[3] > 0 and meter[3] <= LATEST_S and not meter[5] end

  -- Count so much of a window as used now, in place of what it holds.
  local function charge_anew(m, meter, amount)
    call('DEL', window_key(m.subject, meter[1]))
    m.used[meter[1]], m.oldest[meter[1]] = 0, -1
    add_usage(m, meter, amount)
  end

  -- Whether a figure from before the loss tells the server something: of one epoch, those with more changes are newer. Of
  -- two epochs, each may hold what the other has lost, whatever its changes, unless the server had one and knows of the
  -- joining at which the caller reported what it had heard before.
  local function is_news(m, changes, epoch)
    local epoch_before, place = call('HGET', RESTORED, '') or '', m.subject .. ' ' .. epoch
    local was_reported = knows_caller and epoch ~= caller_epoch -- it was heard before that joining
    if epoch ~= epoch_before and was_reported and call('HGET', RESTORED, m.subject .. ' ' .. epoch_before) then return false end
    if changes <= num(call('HGET', RESTORED, place), -1) then return false end
    call('HSET', RESTORED, place, int(changes))
    return true
  end

  -- Top up what was used to what a replica remembers from before the loss, and what was charged since.
  local function restore_usage(figure) -- {subject, changes, resets, {meter: amount}, {meter: end of its period}, epoch}
    local m, changes, resets = load(figure[1]), figure[2], figure[3]
    if not m or resets < m.resets or (resets > m.resets and not recovering and m.usage > 0) then return end
    if resets > m.resets then
      reset_usage(m)
      m.resets, m.usage = resets, 0
    end
    if not is_news(m, changes, figure[6]) then return end
    for key, known in pairs(figure[4]) do
      local meter = meter_named(m, key)
      if meter and wall < num(figure[5][key], math.huge) then
        local used, total = advance(m, meter), known
        if recovering then total = known + num(call('HGET', SINCE_LOSS, m.subject .. ' ' .. key), 0) end
        if recovering and is_short(meter) then
          charge_anew(m, meter, math.max(total, used)) -- what is known may be later than what is kept
        elseif total > used then add_usage(m, meter, total - used) end
      end
    end
    m.usage, m.changed = math.max(m.usage, changes) + (recovering and 0 or 1), true
  end

  -- What the caller remembers of a subject, if all that its leases were charged with counts: it is in its own figure,
  -- which is restored before them, unless a newer one of the same epoch was.
  local function figure_with_leases(subject, order)
    for _, figure in ipairs(recovering and order.used or NOTHING) do
      if figure[1] == subject.subject then return figure[3] == subject.resets and figure end
    end
  end

  -- The step in which a figure counts what a lease was charged with: the oldest that there is, or the period of the
  -- calendar that it was charged in; -1 when that is over, or the charge has left its window.
  local function step_of_restored(subject, meter, lease, charged, figure)
    local key, window = meter[1], meter[3]
    if meter[5] then return charged and charged[2][key] or -1 end
    if window == 0 then return 0 end
    return figure[4][key] and CLOCKS_DIFFER * lease.age_s < window and subject.oldest[key] or -1
  end

  -- Charge a restored lease with what it may settle later, and count that where no figure includes it, unless usage was
  -- counted from nothing again since it was charged.
  local function charge_restored(subject, lease, order, charges)
    local amounts = {[0] = lease.amounts[1], lease.amounts[2], lease.amounts[3]}
    local charged = not lease.here and (lease.charged or NOTHING)[subject.subject]
    local figure = not lease.here and figure_with_leases(subject, order)
    if charged and charged[1] < subject.resets then return end
    if not figure then
      charge_all(subject, amounts, charges)
      return
    end
    for _, meter in ipairs(meters_of(subject)) do
      local n = #charges
      charges[n + 1], charges[n + 2], charges[n + 3] = subject.subject, meter[1], amounts[meter[2]]
      charges[n + 4], charges[n + 5] = step_of_restored(subject, meter, lease, charged, figure), subject.resets
    end
  end

  -- What a server that has lost its last writes still has of a lease: it may have been promoted and renewed since. One
  -- whose holder has heard of no promotion waits again: in what was lost, others may have run in its place.
  local function update_lease(m, lease)
    local kept = read_lease(lease.id)
    if kept.state == 'running' and lease.state == 'queued' then
      local ttl = math.max(num(call('ZSCORE', EXPIRY, lease.id), 0) - alive, lease.ttl_s)
      uncount(lease.id, kept)
      kept.state = 'queued'
      join_line(m, kept.tenant or '', kept.work)
      insert(m, lease.id, kept, ttl)
      promote(m)
      promote_in_pools(kept.pools)
      return
    end
    if kept.state == 'queued' and lease.state == 'running' then
      dequeue(m, lease.id, kept)
      m.waiting = math.max(0, m.waiting - 1)
      for _, name in ipairs(kept.pools or NOTHING) do
        local pool = load_pool(name)
        if pool then pool.waiting, pool.changed = math.max(0, pool.waiting - 1), true end
      end
      kept.state, kept.since = 'running', now
      write_lease(lease.id, kept)
      take_slots(m, kept)
    end
    if num(call('ZSCORE', EXPIRY, lease.id), 0) < alive + lease.ttl_s then list_lease(lease.id, lease.ttl_s) end
  end

  -- After data loss: re-create the leases and usage that a replica reports.
  local function restore_leases(order, epoch)
    for _, lease in ipairs(order.leases) do -- those that are running are, whether they still fit or not
      -- the server of the caller's epoch has recorded which of those it granted have ended
      local m = load_model(lease.model)
      local is_news = m and (order.epoch ~= epoch or lease.here) and now - lease.age_s > lifted_at(lease.model, 'leases')
      if lease.ttl_s <= 0 then -- over by its holder's clock: in what was lost others may have run in its place
        if order.epoch ~= epoch and live_state(lease.id) ~= 'gone' then end_due(lease.id) end
      elseif is_news and live_state(lease.id) ~= 'gone' then update_lease(m, lease)
      elseif is_news then
        local kept, chain = read_lease(lease.id), chain_of(m) or NOTHING
        local entry = {model = lease.model, state = lease.state, slots = lease.slots, owner = replica,
                       fill = num(lease.fill, 1), since = now, priority = lease.priority, passed = 0, work = lease.work,
                       tenant = lease.tenant ~= '' and lease.tenant or nil, pools = names_of(chain)}
        if kept then
          entry.charges = kept.charges -- it has ended by the server's clock, which is ahead of its holder's
        else
          entry.charges = {}
          for _, subject in ipairs({m, unpack(chain)}) do
            if subject.metered then charge_restored(subject, lease, order, entry.charges) end
          end
        end
        if entry.state == 'queued' then join_line(m, entry.tenant or '', entry.work) end
        insert(m, lease.id, entry, lease.ttl_s, kept)
      end
    end
  end

  -- Re-create, after data loss, the stops that an operator or rule has set, unless they were lifted later.
  local function restore_settings(order)
    for _, entry in ipairs(order.lifted) do
      local m = load_model(entry[1])
      note_lifted(entry[1], entry[2], num(entry[3], 0))
      local standing = call('HGET', stops_key(entry[1]), entry[2])
      if m and standing and num(cjson.decode(standing)[4], 0) <= num(entry[3], 0) then
        call('HDEL', stops_key(entry[1]), entry[2])
        stops_changed(m)
      end
    end
    for _, entry in ipairs(order.stops) do -- {model, owner, name, reason, since, until}
      local m = load_model(entry[1])
      local lifted = math.max(lifted_at(entry[1], entry[2] .. ':' .. entry[3]), lifted_at(entry[1], entry[2]))
      local over = num(entry[6], -1) >= 0 and num(entry[6], -1) <= now
      if m and lifted < num(entry[5], 0) and not over then
        stop(m, entry[2], entry[3], entry[4], entry[5], entry[6], true)
      end
    end
    for _, entry in ipairs(order.outside) do -- {model, added active, queued, changes, seen active, queued, ttl}
      local m = load_model(entry[1])
      if m then
        local added_a, added_q = m.added_a, m.added_q
        local own_a, own_q, changes = own_part(m.name)
        if entry[4] > changes then -- else the server's figures are newer
          set_own_part(m.name, entry[2], entry[3], entry[4])
          added_a, added_q = added_a + entry[2] - own_a, added_q + entry[3] - own_q
        end
        set_outside(m, added_a, added_q, math.max(m.seen_a, entry[5]), math.max(m.seen_q, entry[6]))
        if entry[7] >= 0 then schedule(TIMERS, now + entry[7], cjson.encode({'o', m.name})) end
      end
    end
  end

  -- What the replica has added so far, also before it was started anew: {model, active, queued, changes} of each.
  local function parts_of_caller()
    local parts = {}
    for _, model in ipairs(all_models()) do
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

  -- Note how often what was used had changed before the loss. Where the time was lost, short windows would end early if
  -- the server's clock has stepped before: all that they hold counts as used now.
  local function note_usage_before(epoch_before)
    for _, place in ipairs(call('HKEYS', RESTORED)) do -- of an epoch that every replica has not joined
      local m = load(string.match(place, '^(.*) ') or '')
      if not m or m.usage == 0 then call('HDEL', RESTORED, place) end -- its key was lost
    end
    call('HSET', RESTORED, '', epoch_before)
    for _, subjects in ipairs({{'m:', MODELS}, {'p:', POOLS}}) do
      for _, name in ipairs(call('ZRANGE', subjects[2], 0, -1)) do
        local m = load(subjects[1] .. name)
        if m and m.usage > 0 then call('HSET', RESTORED, m.subject .. ' ' .. epoch_before, int(m.usage)) end
        for _, meter in ipairs(m and not has_state and meters_of(m) or NOTHING) do
          local used = m.used[meter[1]]
          if used > 0 and is_short(meter) then charge_anew(m, meter, used) end
        end
      end
    end
  end

  local COMMANDS = {'DEL', 'EXISTS', 'GET', 'HDEL', 'HGET', 'HGETALL', 'HINCRBY', 'HKEYS', 'HLEN', 'HMGET', 'HSET', 'HVALS',
    'SADD', 'SCARD', 'SET', 'TIME', 'ZADD', 'ZCARD', 'ZCOUNT', 'ZRANGE', 'ZRANGEBYSCORE', 'ZREM', 'ZREMRANGEBYRANK',
    'ZREMRANGEBYSCORE', 'ZREVRANGEBYSCORE', 'ZSCORE', 'ZUNIONSTORE'}

  -- A command of these scripts that the caller's user may not run, or nil: with an error in its midst an operation would
  -- have been carried out by half. Before version 7 a server tells of keys and channels alone, and only when used.
  local function forbidden_command()
    local is_allowed, channel = redis.acl_check_cmd, prefix .. 'promoted:'
    if not is_allowed then return type(redis.pcall('PUBLISH', channel, '')) == 'table' and 'PUBLISH' or nil end
    for _, command in ipairs(COMMANDS) do
      if not is_allowed(command, META) then return command end
    end
    return not is_allowed('PUBLISH', channel, '') and 'PUBLISH' or nil
  end

  function join(order)
    local forbidden = forbidden_command()
    if forbidden then return {'forbidden', forbidden} end
    local known = call('HMGET', META, 'run_id', 'epoch', 'schema', 'promotion')
    if known[3] and known[3] ~= order.schema then return {'schema', known[3]} end
    -- A message that comes late, after others of the same replica, must not restore what it reported then.
    local process, number, last_epoch =
      string.match(call('HGET', prefix .. 'processes', replica) or '', '^(%S+) (%d+) ?(%S*)$')
    if process and ((process == order.process and num(number, 0) >= order.number)
                    or (process ~= order.process and order.number > 1)) then
      return {'stale'}
    end
    caller_epoch = order.epoch
    knows_caller = process == order.process and order.joined > 0 and num(number, 0) >= order.joined
    if call('HLEN', prefix .. 'processes') > 4096 then call('DEL', prefix .. 'processes') end
    begun = true
    local epoch = known[2]
    local is_promoted = known[4] and order.promotion ~= '' and order.promotion ~= known[4] -- since it was joined first
    if not known[4] then call('HSET', META, 'promotion', order.promotion) end
    if known[1] ~= order.run_id or is_promoted or not epoch then -- leases and usage may be missing until every replica has reported
      epoch = order.token
      recovering, recovering_until, longest_s = true, alive + order.max_ttl_s, order.max_ttl_s
      version, listed = math.max(version, order.version) + 1, call('ZCARD', MODELS) + call('ZCARD', POOLS)
      call('HSET', META, 'schema', order.schema, 'run_id', order.run_id, 'promotion', order.promotion, 'epoch', epoch)
      due, due_alive = now, alive
      schedule(TIMERS, alive + order.max_ttl_s + lag, cjson.encode({'r'}))
      call('DEL', JOINED, SINCE_LOSS, prefix .. 'lifted')
      if not has_state then limit_leases(order.max_ttl_s) end
      note_usage_before(known[2] or call('HGET', META, 'epoch_before') or '') -- the latter where a lost key has ended it
      recount()
    end
    call('HSET', prefix .. 'processes', replica, order.process .. ' ' .. int(order.number) .. ' ' .. epoch)
    if process == order.process and last_epoch == epoch then order.epoch = epoch end -- it has joined: the reply was lost
    note_calendars(order.calendars)
    expire_leases()
    local is_new = false
    for _, limits in ipairs(order.limits) do -- pools first
      local is_model = limits[1] == 'm'
      if not is_model or not call('ZSCORE', FORGOTTEN, limits[2]) then
        local subject = limits[1] .. ':' .. limits[2]
        local known, set_at = load(subject), num(order.set_at[subject], 0)
        if not known or known.set_at < set_at then -- else what is known was set later
          configure(limits, set_at)
          is_new = is_new or not known
        end
        is_new = list(is_model and MODELS or POOLS, limits[2]) or is_new
      end
    end
    if is_new then recount() end -- it may have leases from before, and counts that nothing has kept up
    -- What the caller has heard in this epoch is known. A child of a fork remembers what its parent has heard.
    if order.epoch ~= epoch and (recovering or order.epoch ~= '') then
      for _, figure in ipairs(order.used) do
        if figure[6] ~= epoch then restore_usage(figure) end
      end
    end
    restore_leases(order, epoch)
    if order.epoch ~= epoch and order.epoch ~= '' then restore_settings(order) end
    if order.counted then call('SADD', JOINED, replica) end
    if call('SCARD', JOINED) >= order.replicas then
      recovering_until = 0
      call('DEL', RESTORED, SINCE_LOSS, prefix .. 'lifted')
      if recovering then
        recovering = false
        call('ZREM', TIMERS, cjson.encode({'r'}))
        if needs_recount then recount() end
        promote_all()
      end
    end
    local listed_before = prefix .. 'trash' -- the name of the deletions in earlier versions
    if call('EXISTS', listed_before) == 1 then
      call('ZUNIONSTORE', DELETIONS, 2, DELETIONS, listed_before)
      call('DEL', listed_before)
      due = now
    end
    call('ZREMRANGEBYSCORE', MEMBERS, '-inf', exact(now - math.max(absent_s, 3600)))
    return {'joined', epoch, parts_of_caller()}
  end
end
