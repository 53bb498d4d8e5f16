-- The usual requests, in few steps ----------------------------------------------------------------------
--
-- Most of the work is to take or give back a lease on a model that is open, draws on no pool, has no limits beyond
-- those on its own three meters, and has no lease waiting. That is done here, before the functions of the files that
-- follow are made: making them takes longer than the whole operation. It does what acquire and release of
-- 06_leases.lua do. Whatever else is found is left to them, and nothing has been written by then.

if op == 'acquire' or op == 'release' then
  -- A subject's state, by place.
  local ACTIVE, WAITING, ACCEPTING, HEARD, USED, OLDEST, USAGE, RESETS, MEASURED = 1, 2, 9, 11, 12, 15, 18, 19, 22
  local METER = {[0] = '0', '1', '2'}

  -- Limits and state of a model that has nothing but slots and its own three meters, and no lease waiting; else nil.
  local function plain_model(subject)
    local kept = call('HMGET', prefix .. subject, 'limits', 'state', 'further', 'pools')
    if not kept[1] or not kept[2] or kept[3] or kept[4] then return nil end
    local limits, state = {struct.unpack(LIMITS, kept[1])}, {struct.unpack(SUBJECT, kept[2])}
    if state[WAITING] > 0 or state[MEASURED] >= now then return nil end
    return limits, state
  end

  -- The step of a meter that is counted now, 0 of one that never leaves; nil when something has left it since.
  local function plain_step(limits, state, kind)
    local window = kind == 2 and limits[6] or 60
    if window == 0 then return 0 end
    local step_s, oldest = window / PARTS, state[OLDEST + kind]
    if oldest >= 0 and (oldest + 1) * step_s + window <= metered then return nil end
    return math.floor(metered / step_s)
  end

  -- A change of a meter, and its window's key and step where it has one.
  local function plain_change(changes, subject, state, kind, amount, step, is_windowed)
    state[USED + kind], state[USAGE] = state[USED + kind] + amount, state[USAGE] + 1
    if not is_windowed then return end
    changes[#changes + 1] = {prefix .. 'w:' .. subject .. ':' .. kind, int(step), int(amount)}
    if state[OLDEST + kind] < 0 then state[OLDEST + kind] = step end
  end

  local function plain_usage(answer, subject, limits, state)
    local n, count = #answer, 0
    answer[n + 1], answer[n + 2], answer[n + 3] = subject, state[USAGE], state[RESETS]
    for kind = 0, 2 do
      if limits[3 + kind] >= 0 then
        answer[n + 5 + 2 * count], answer[n + 6 + 2 * count] = METER[kind], state[USED + kind]
        count = count + 1
      end
    end
    answer[n + 4] = count
    return answer
  end

  local function plain_finish(answer, subject, state, changes)
    for _, change in ipairs(changes) do call('HINCRBY', change[1], change[2], change[3]) end
    state[HEARD], version = now, version + 1
    call('HSET', prefix .. subject, 'state', struct.pack(SUBJECT, unpack(state, 1, MEASURED)))
    write_state()
    return {time_text, answer}
  end

  local carry_out -- nil is returned for what is left to the other files
  if op == 'acquire' then
    function carry_out()
      local id, model, slots, ttl, fill, tenant = ARGV[11], ARGV[12], tonumber(ARGV[13]), tonumber(ARGV[17]), tonumber(ARGV[19]), ARGV[21]
      local subject = 'm:' .. model
      local limits, state = plain_model(subject)
      if not limits or state[ACCEPTING] == 0 or (tenant ~= '' and limits[2] > 0) then return nil end
      local most = fill >= 1 and limits[1] or math.floor(fill * limits[1] + 1e-9)
      if state[ACTIVE] + slots > most then return nil end
      local changes, charges = {}, nil
      for kind = 0, 2 do
        if limits[3 + kind] >= 0 then
          local amount, step = tonumber(ARGV[14 + kind]), plain_step(limits, state, kind)
          if not step or state[USED + kind] + amount > limits[3 + kind] then return nil end
          if amount == 0 then step = 0
          else plain_change(changes, subject, state, kind, amount, step, kind < 2 or limits[6] ~= 0) end
          charges = charges or {}
          local n = #charges
          charges[n + 1], charges[n + 2], charges[n + 3], charges[n + 4], charges[n + 5] = subject, METER[kind], amount, step, state[RESETS]
        end
      end
      local lease = {model = model, state = 'running', slots = slots, owner = replica, fill = fill, since = now,
                     priority = tonumber(ARGV[20]), passed = 0, tenant = tenant ~= '' and tenant or nil,
                     work = math.max(tonumber(ARGV[15]), slots), charges = charges}
      local until_s, key = alive + ttl, prefix .. 'l:' .. id
      if call('ZADD', EXPIRY, 'NX', exact(until_s), id) == 0 then return nil end
      if not call('SET', key, cmsgpack.pack(lease), 'NX') then -- kept from before, though it has ended
        call('ZREM', EXPIRY, id)
        return nil
      end
      if ARGV[9] ~= '' then
        if call('ZADD', RECENT, exact((tonumber(ARGV[8]) or metered) + RECENT_S), ARGV[9]) == 0 then -- a copy
          call('ZREM', EXPIRY, id)
          call('DEL', key)
          write_state()
          return {time_text, {'copy'}}
        end
        due = math.min(due, now + RECENT_S)
      end
      leases, due_alive, state[ACTIVE] = leases + 1, math.min(due_alive, until_s), state[ACTIVE] + slots
      local answer = {'running'}
      if charges then
        answer[2] = ''
        plain_usage(answer, subject, limits, state)
      end
      return plain_finish(answer, subject, state, changes)
    end
  else
    function carry_out()
      local id, actual = ARGV[11], {false, tonumber(ARGV[12]), tonumber(ARGV[13])}
      local key = prefix .. 'l:' .. id
      local text = call('GET', key)
      local lease = text and cmsgpack.unpack(text)
      if not lease or lease.state ~= 'running' or lease.pools then return nil end
      local subject, charges, changes = 'm:' .. lease.model, lease.charges, {}
      local limits, state = plain_model(subject)
      if not limits then return nil end
      for k = 1, charges and #charges or 0, 5 do -- subject, meter, amount, step, resets before
        local kind, estimate, step = tonumber(charges[k + 1]), charges[k + 2], charges[k + 3]
        if charges[k] ~= subject or not kind or charges[k + 4] ~= state[RESETS] or limits[3 + kind] < 0 then return nil end
        local used, is_windowed = actual[1 + kind], kind < 2 or limits[6] ~= 0
        if used and used ~= estimate then
          local now_step = plain_step(limits, state, kind)
          if not now_step then return nil end
          if used > estimate then
            plain_change(changes, subject, state, kind, used - estimate, now_step, is_windowed)
          else
            local back = math.min(estimate - used, state[USED + kind])
            if not is_windowed then
              if step ~= 0 then back = 0 end -- it was charged to a window
            else
              back = math.min(back, num(call('HGET', prefix .. 'w:' .. subject .. ':' .. kind, int(step)), 0))
            end
            if back > 0 then plain_change(changes, subject, state, kind, -back, step, is_windowed) end
          end
        end
      end
      if call('ZREM', EXPIRY, id) == 0 then return nil end -- nothing is due: all that are listed live
      call('DEL', key)
      leases, state[ACTIVE] = leases - 1, math.max(0, state[ACTIVE] - lease.slots)
      local answer = {'released', lease.model}
      if charges then plain_usage(answer, subject, limits, state) end
      return plain_finish(answer, subject, state, changes)
    end
  end

  if has_state and meta[1] == ARGV[2] and not late and not recovering and peers == 0 and now < due and alive < due_alive
    and (op == 'release' or ARGV[10] == '1') and call('ZCARD', EXPIRY) == leases then
    local reply = carry_out()
    if reply then return reply end
  end
end
