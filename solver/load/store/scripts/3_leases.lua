-- Leases -----------------------------------------------------------------------------------------------

local damaged = false -- a part was found missing: counts are made anew from what is left

local function up_to(share, slots) return share >= 1 and slots or math.floor(share * slots + 1e-9) end

-- First come first served; a lease that does not fit holds back those that may fill no more than it may.
-- While leases may be missing that others have not told yet, nothing is known to be free.
local function promote(model)
  if recovering then return end
  local key = model_key(model)
  local state = call('HMGET', key, 'max_concurrent', 'active', 'waiting', 'held')
  local waiting = num(state[3], 0)
  if waiting <= 0 or state[4] == '1' then return end
  local slots, active, held_back_to, promoted = num(state[1], 0), num(state[2], 0), 0, 0
  local ids = call('ZRANGE', queue_key(model), 0, -1)
  if #ids ~= waiting then damaged = true end
  for _, id in ipairs(ids) do
    local lease = call('HMGET', lease_key(id), 'slots', 'fill', 'owner')
    local fill = num(lease[2], 1)
    if not lease[1] then
      damaged = true
    elseif fill > held_back_to then
      if active + num(lease[1], 1) <= math.min(granted_here(slots), up_to(fill, slots)) then
        active, promoted = active + num(lease[1], 1), promoted + 1
        call('ZREM', queue_key(model), id)
        call('HSET', lease_key(id), 'state', 'running')
        call('PUBLISH', prefix .. 'promoted:' .. (lease[3] or ''), id)
      else
        held_back_to = fill
        if fill >= 1 then break end
      end
    end
  end
  if promoted > 0 then call('HSET', key, 'active', int(active), 'waiting', int(waiting - promoted)) end
end

local function promote_all()
  for _, model in ipairs(call('ZRANGE', MODELS, 0, -1)) do promote(model) end
end

local function unlist(id)
  if call('ZREM', EXPIRY, id) == 0 then return false end
  call('HINCRBY', META, 'leases', -1)
  return true
end

-- Free the slots or the queue place of a live lease.
local function give_back(id, model, state, slots)
  local key = model_key(model)
  if not unlist(id) then return end -- it was not counted
  local counts = call('HMGET', key, 'active', 'waiting')
  if not counts[1] then return end -- the model was forgotten
  if state == 'running' then
    call('HSET', key, 'active', int(math.max(0, num(counts[1], 0) - slots)))
  else
    call('ZREM', queue_key(model), id)
    call('HSET', key, 'waiting', int(math.max(0, num(counts[2], 0) - 1)))
  end
  promote(model)
end

local function end_due(id)
  local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots')
  if lease[1] and lease[2] and lease[3] then
    give_back(id, lease[1], lease[2], num(lease[3], 1))
    call('HSET', lease_key(id), 'state', 'expired')
    expect(TRASH, exact(alive + SETTLE_S), 'l:' .. id)
    touch(lease[1])
  else
    unlist(id)
    damaged = true
  end
end

local function expire_leases()
  for _, id in ipairs(call('ZRANGEBYSCORE', EXPIRY, '-inf', exact(alive), 'LIMIT', 0, AT_ONCE)) do end_due(id) end
end

-- The state of a lease, given as it is kept: 'gone' also when it is due and has not been ended yet.
local function live(id, state)
  if state ~= 'running' and state ~= 'queued' then return 'gone' end
  local until_s = call('ZSCORE', EXPIRY, id)
  if not until_s or tonumber(until_s) <= alive then return 'gone' end
  return state
end

local function live_state(id) return live(id, call('HGET', lease_key(id), 'state')) end

local function insert(id, model, state, slots, ttl, amounts, period, owner, fill, is_new)
  if not is_new and call('ZSCORE', EXPIRY, id) then end_due(id) end -- the same id, used again
  local steps = {}
  for kind = 0, 2 do steps[kind] = charge(model, kind, amounts[kind], window_of(kind, period)) end
  call('HSET', lease_key(id), 'model', model, 'state', state, 'slots', int(slots), 'owner', owner, 'fill', fill,
       'a0', int(amounts[0]), 'a1', int(amounts[1]), 'a2', int(amounts[2]),
       's0', int(steps[0]), 's1', int(steps[1]), 's2', int(steps[2]))
  if not is_new then call('ZREM', TRASH, 'l:' .. id) end
  if call('ZADD', EXPIRY, exact(alive + ttl), id) == 1 then call('HINCRBY', META, 'leases', 1)
  else damaged = true end -- its key had been deleted, and it was counted
  if state == 'running' then
    call('HINCRBY', model_key(model), 'active', int(slots))
  else
    call('HINCRBY', model_key(model), 'waiting', 1)
    call('ZADD', queue_key(model), call('HINCRBY', META, 'ticket', 1), id)
  end
  touch(model)
end

-- Whether somebody waits who may fill as much, and so has to come first.
local function waits_before(model, fill)
  for _, id in ipairs(call('ZRANGE', queue_key(model), 0, -1)) do
    if num(call('HGET', lease_key(id), 'fill'), 1) >= fill then return true end
  end
  return false
end

-- An ask is nine arguments: lease, model, slots, requests, tokens, billionths of a dollar, ttl, queue, fill.
local ASK = 9
local function acquire(first)
  local id, model, slots = ARGV[first], ARGV[first + 1], num(ARGV[first + 2], 1)
  local state = call('HMGET', model_key(model), 'max_concurrent', 'max_queue', 'active', 'waiting',
                     'out_queued', 'accepting', 'limit0', 'limit1', 'limit2', 'period')
  if not state[1] then return {'unknown_model', '', model} end
  local kept = call('HGET', lease_key(id), 'state')
  local known = live(id, kept)
  if known ~= 'gone' then return {known, '', used_of(model)} end
  if recovering then return {'recovering', exact(num(meta[5], 0) - alive)} end
  if state[6] == '0' then return {'not_accepting', '', 'stops', call('HVALS', stops_key(model))} end
  local whole, active, waiting = num(state[1], 0), num(state[3], 0), num(state[4], 0)
  local fill = num(ARGV[first + 8], 1)
  local most = up_to(fill, whole)
  local answer = 'running'
  if active + slots > math.min(granted_here(whole), most) or (waiting > 0 and waits_before(model, fill)) then
    if slots > most and whole > 0 then return {'too_large', ''} end
    if ARGV[first + 7] ~= '1' then return {'concurrency', ''} end
    if waiting + num(state[5], 0) >= num(state[2], 0) then return {'queue', ''} end
    answer = 'queued'
  end
  local period, amounts, metered = num(state[10], 0), {[0] = 0, 0, 0}, false
  for kind = 0, 2 do metered = metered or num(state[7 + kind], -1) >= 0 end
  if metered then
    for kind = 0, 2 do
      local limit, window = num(state[7 + kind], -1), window_of(kind, period)
      amounts[kind] = num(ARGV[first + 3 + kind], 0)
      local used = advance_meter(model, kind, window)
      if limit >= 0 and used + amounts[kind] > granted_here(limit) then
        if amounts[kind] > limit then return {'too_large', ''} end
        return {REASONS[kind], wait_s(model, kind, used + amounts[kind] - granted_here(limit), window)}
      end
    end
  end
  insert(id, model, answer, slots, num(ARGV[first + 6], 0), amounts, period, replica, ARGV[first + 8],
         not kept)
  if metered then return {answer, '', used_of(model)} end
  return {answer, ''}
end

-- Take back a lease as if it had never been granted.
local function drop(id)
  local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots', 'a0', 'a1', 'a2', 's0', 's1', 's2')
  if not lease[1] then return end
  local period = num(call('HGET', model_key(lease[1]), 'period'), 0)
  for kind = 0, 2 do
    refund(lease[1], kind, num(lease[4 + kind], 0), lease[7 + kind] or '0', window_of(kind, period))
  end
  give_back(id, lease[1], lease[2], num(lease[3], 1))
  call('DEL', lease_key(id))
  touch(lease[1])
end

local function release(id, actual)
  local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots', 'a0', 'a1', 'a2', 's0', 's1', 's2')
  local model, state = lease[1], lease[2]
  if not model or not state then return {'unknown'} end
  local was_live = live(id, state) ~= 'gone'
  local limits = call('HMGET', model_key(model), 'period', 'limit0', 'limit1', 'limit2')
  if state ~= 'expired' then give_back(id, model, state, num(lease[3], 1)) end
  call('DEL', lease_key(id))
  if state == 'expired' then call('ZREM', TRASH, 'l:' .. id) end
  if not limits[1] then return {was_live and 'released' or 'expired'} end -- the model was forgotten
  if limits[2] ~= '-1' or limits[3] ~= '-1' or limits[4] ~= '-1' then
    for kind = 1, 2 do
      local window, estimate = window_of(kind, num(limits[1], 0)), num(lease[4 + kind], 0)
      local used = tonumber(actual[kind])
      if used then
        advance_meter(model, kind, window)
        if used > estimate then charge(model, kind, used - estimate, window) end
        if used < estimate then refund(model, kind, estimate - used, lease[7 + kind] or '0', window) end
      end
    end
  end
  touch(model)
  return {was_live and 'released' or 'expired', model, used_of(model)}
end

-- Counts of leases made anew from the leases themselves.
local function recount()
  local active, waiting, count = {}, {}, 0
  for _, id in ipairs(call('ZRANGE', EXPIRY, 0, -1)) do
    local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots')
    local model, state = lease[1], lease[2]
    if model and state == 'running' then
      active[model], count = (active[model] or 0) + num(lease[3], 1), count + 1
    elseif model and state == 'queued' then
      waiting[model], count = (waiting[model] or 0) + 1, count + 1
      if not call('ZSCORE', queue_key(model), id) then
        call('ZADD', queue_key(model), call('HINCRBY', META, 'ticket', 1), id)
      end
    else
      call('ZREM', EXPIRY, id)
    end
  end
  for _, model in ipairs(call('ZRANGE', MODELS, 0, -1)) do
    local key = model_key(model)
    for _, id in ipairs(call('ZRANGE', queue_key(model), 0, -1)) do
      if call('HGET', lease_key(id), 'state') ~= 'queued' or not call('ZSCORE', EXPIRY, id) then
        call('ZREM', queue_key(model), id)
      end
    end
    if call('HEXISTS', key, 'max_concurrent') == 1 then
      local outside = num(call('HGET', key, 'out_active'), 0)
      call('HSET', key, 'active', int((active[model] or 0) + outside), 'waiting', int(waiting[model] or 0))
      touch(model)
    end
  end
  call('HSET', META, 'leases', count)
  damaged = false
  for model in pairs(waiting) do promote(model) end
end
