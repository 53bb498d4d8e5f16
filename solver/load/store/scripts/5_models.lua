-- Models: limits, work from outside, stops ---------------------------------------------------------------

local function list(model)
  if call('ZADD', MODELS, 'NX', call('HINCRBY', META, 'ticket', 1), model) == 1 then
    call('HINCRBY', META, 'models', 1)
  end
end

-- Limits are seven fields: model, slots, queue, three meter limits (-1: none), budget period (0: none).
local function configure(limits)
  local model, period = limits[1], limits[7]
  local key = model_key(model)
  local before = call('HGET', key, 'period')
  if not before then
    damaged = call('ZSCORE', MODELS, model) ~= false or damaged -- somebody has deleted it: it may have leases
    call('HSET', key, 'active', 0, 'waiting', 0, 'out_active', 0, 'out_queued', 0, 'accepting', 1, 'held', 0)
    list(model)
    call('ZREM', FORGOTTEN, model)
  elseif before ~= period then -- what was spent counts from now on
    local used = advance_meter(model, 2, num(before, 0))
    call('DEL', window_key(model, 2))
    call('HDEL', key, 'used2', 'oldest2')
    charge(model, 2, used, num(period, 0))
  end
  call('HSET', key, 'max_concurrent', limits[2], 'max_queue', limits[3], 'limit0', limits[4],
       'limit1', limits[5], 'limit2', limits[6], 'period', period)
  touch(model)
  promote(model)
end

-- Work from outside is what callers have added, and what was measured beyond the leases.
local function outside_of(model)
  local state = call('HMGET', model_key(model), 'added_a', 'added_q', 'seen_a', 'seen_q')
  return num(state[1], 0), num(state[2], 0), num(state[3], 0), num(state[4], 0)
end

local function set_outside(model, added_a, added_q, seen_a, seen_q)
  local key = model_key(model)
  local state = call('HMGET', key, 'active', 'out_active')
  local out_active, out_queued = math.max(0, added_a + seen_a), math.max(0, added_q + seen_q)
  call('HSET', key, 'active', int(num(state[1], 0) - num(state[2], 0) + out_active),
       'out_active', int(out_active), 'out_queued', int(out_queued),
       'added_a', int(added_a), 'added_q', int(added_q), 'seen_a', int(seen_a), 'seen_q', int(seen_q))
end

-- What the calling replica has added, so that it can be told again, and how often that has changed: of what
-- is told and what is kept here, the one with more changes is newer.
local function read_part(text)
  local active, queued, changes = string.match(text or '', '^(%-?%d+) (%-?%d+) ?(%d*)$')
  return num(active, 0), num(queued, 0), num(changes, 0)
end

local function own_part(model) return read_part(call('HGET', outside_key(model), replica)) end

local function set_own_part(model, active, queued, changes)
  call('HSET', outside_key(model), replica, int(active) .. ' ' .. int(queued) .. ' ' .. int(changes))
end

-- With a floor at zero. Until every replica has told, a sum may be below it: that is left to the others.
local function add(before, change, seen) return math.max(before + change, math.min(before, -seen)) end

local function adjust(model, active, queued)
  local added_a, added_q, seen_a, seen_q = outside_of(model)
  local new_a, new_q = add(added_a, active, seen_a), add(added_q, queued, seen_q)
  local own_a, own_q, changes = own_part(model)
  own_a, own_q, changes = own_a + new_a - added_a, own_q + new_q - added_q, changes + 1
  set_own_part(model, own_a, own_q, changes)
  set_outside(model, new_a, new_q, seen_a, seen_q)
  touch(model)
  promote(model)
  return {'ok', int(own_a), int(own_q), int(changes)}
end

local function observe(model, active, queued, ttl)
  local state = call('HMGET', model_key(model), 'active', 'out_active', 'waiting')
  local seen_a = math.max(0, active - (num(state[1], 0) - num(state[2], 0)))
  local seen_q = math.max(0, queued - num(state[3], 0))
  set_own_part(model, own_part(model))
  local parts, own_changes = call('HGETALL', outside_key(model)), 0
  for k = 1, #parts, 2 do -- what anybody has added before is part of the totals, and not told again
    local _, _, changes = read_part(parts[k + 1])
    call('HSET', outside_key(model), parts[k], '0 0 ' .. int(changes + 1))
    if parts[k] == replica then own_changes = changes + 1 end
  end
  set_outside(model, 0, 0, seen_a, seen_q)
  if ttl then expect(TIMERS, exact(now + ttl), cjson.encode({'o', model}))
  else call('ZREM', TIMERS, cjson.encode({'o', model})) end
  touch(model)
  promote(model)
  return {'ok', '0', '0', int(own_changes), int(seen_a), int(seen_q)}
end

local HOLDS_QUEUE = {cooldown = true, breaker = true}

local function stops_changed(model)
  local held, names = '0', call('HKEYS', stops_key(model))
  for _, name in ipairs(names) do
    if HOLDS_QUEUE[string.match(name, '^(%a+):')] then held = '1' end
  end
  call('HSET', model_key(model), 'accepting', #names == 0 and '1' or '0', 'held', held)
  call('HINCRBY', META, 'version', 1)
  if held == '0' then promote(model) end
end

-- A stop is kept as {owner, name, reason, since, until or -1, order}; its key is owner:name.
local function stop(model, owner, name, reason, since, until_s, extend)
  local key = owner .. ':' .. name
  local before = call('HGET', stops_key(model), key)
  if before and extend then
    local ends = cjson.decode(before)[5]
    if tonumber(ends) < 0 or (tonumber(until_s) >= 0 and tonumber(ends) >= tonumber(until_s)) then return before end
  end
  local text = cjson.encode({owner, name, reason, since, until_s, int(call('HINCRBY', META, 'ticket', 1))})
  call('HSET', stops_key(model), key, text)
  if tonumber(until_s) >= 0 then expect(TIMERS, until_s, cjson.encode({'s', model, key}))
  else call('ZREM', TIMERS, cjson.encode({'s', model, key})) end
  stops_changed(model)
  return text
end

local function resume(model, owner, name, every_name)
  local lifted = {}
  for _, key in ipairs(call('HKEYS', stops_key(model))) do
    if key == owner .. ':' .. name or (every_name and string.match(key, '^(%a+):') == owner) then
      call('HDEL', stops_key(model), key)
      lifted[#lifted + 1] = key
      call('ZREM', TIMERS, cjson.encode({'s', model, key}))
    end
  end
  if #lifted > 0 then stops_changed(model) end
  return lifted
end

local function run_timers()
  local due = call('ZRANGEBYSCORE', TIMERS, '-inf', exact(now), 'LIMIT', 0, AT_ONCE)
  for _, text in ipairs(due) do
    local entry = cjson.decode(text)
    call('ZREM', TIMERS, text)
    if entry[1] == 'r' and recovering then expect(TIMERS, exact(num(meta[5], 0) + lag), text)
    elseif entry[1] == 'r' then promote_all()
    elseif call('EXISTS', model_key(entry[2])) == 1 then
      if entry[1] == 'o' then
        local added_a, added_q = outside_of(entry[2])
        set_outside(entry[2], added_a, added_q, 0, 0)
        call('HINCRBY', META, 'version', 1)
        promote(entry[2])
      elseif call('HDEL', stops_key(entry[2]), entry[3]) == 1 then
        stops_changed(entry[2])
      end
    end
  end
end

local function end_leases(model)
  local ended = 0
  for _, id in ipairs(call('ZRANGE', EXPIRY, 0, -1)) do
    local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots')
    if lease[1] == model then
      ended = ended + 1
      unlist(id)
      call('ZREM', queue_key(model), id)
      call('HSET', lease_key(id), 'state', 'expired')
      expect(TRASH, exact(alive + SETTLE_S), 'l:' .. id)
    end
  end
  local key = model_key(model)
  call('HSET', key, 'active', int(num(call('HGET', key, 'out_active'), 0)), 'waiting', 0)
  touch(model)
  return ended
end

local function forget(model)
  if call('EXISTS', model_key(model)) == 0 then return end
  end_leases(model)
  for _, key in ipairs(call('HKEYS', stops_key(model))) do
    call('ZREM', TIMERS, cjson.encode({'s', model, key}))
  end
  call('ZREM', TIMERS, cjson.encode({'o', model}))
  call('DEL', model_key(model), stops_key(model), outside_key(model), queue_key(model), window_key(model, 0), window_key(model, 1),
       window_key(model, 2))
  if call('ZREM', MODELS, model) == 1 then call('HINCRBY', META, 'models', -1) end
  call('ZREMRANGEBYSCORE', FORGOTTEN, '-inf', exact(now - 86400))
  call('ZADD', FORGOTTEN, exact(now), model) -- replicas that still know it do not bring it back
  call('HINCRBY', META, 'version', 1)
end

local function row(model)
  local state = call('HMGET', model_key(model), 'active', 'waiting', 'out_queued', 'accepting', 'heard',
                     'max_concurrent', 'max_queue', 'limit0', 'limit1', 'limit2', 'period')
  if not state[6] then return nil end
  local used = {[0] = 0, 0, 0}
  for kind = 0, 2 do
    if state[8 + kind] ~= '-1' then
      used[kind] = advance_meter(model, kind, window_of(kind, num(state[11], 0)))
    end
  end
  local stops = state[4] == '0' and call('HVALS', stops_key(model)) or {}
  return {state[1], int(num(state[2], 0) + num(state[3], 0)), recovering and '0' or state[4],
          exact(now - num(state[5], now)), state[6], state[7], state[8], state[9], state[10], state[11],
          exact(used[0]), exact(used[1]), exact(used[2]), stops}
end
