-- One operation on the shared store, as one atomic step. The contract is Store in solver/load/store.py.
--
-- KEYS[1]  prefix of every key; it contains a {hash tag}, so that all keys live on one node of a cluster
-- ARGV[1]  operation
-- ARGV[2]  epoch the caller has joined; a restart of the server begins another
-- ARGV[3]  seconds by the caller's clock, empty for the server's own
-- ARGV[4]  replica, its number of peers (0: absent replicas keep no share), seconds until it counts as absent,
--          as three fields joined by a colon
-- ARGV[5+] arguments of the operation
--
-- Keys: meta (hash), joined (set), members (zset), models (list), expiry (zset: lease -> second),
--       m:<model> (hash), w:<model>:<meter> (hash: step -> amount), q:<model> (zset: waiting leases),
--       l:<lease> (hash)

local call, prefix = redis.call, KEYS[1]
local META, EXPIRY, MODELS = prefix .. 'meta', prefix .. 'expiry', prefix .. 'models'
local PARTS, SETTLE_MS = 60, 600000 -- steps a window; how long an expired lease can still be settled
local REASONS = {[0] = 'requests', 'tokens', 'budget'}

local now = tonumber(ARGV[3])
if not now then
  local time = call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local meta = call('HMGET', META, 'epoch', 'now', 'recovering_until')
if meta[2] and tonumber(meta[2]) > now then now = tonumber(meta[2]) end
local recovering = meta[3] and now < tonumber(meta[3])

local replica, peers, absent_s = string.match(ARGV[4], '^(.*):(%d+):([%d.]+)$')
peers, absent_s = tonumber(peers), tonumber(absent_s)
local missing = 0

local function exact(number) return string.format('%.17g', number) end
local function model_key(model) return prefix .. 'm:' .. model end
local function lease_key(id) return prefix .. 'l:' .. id end
local function queue_key(model) return prefix .. 'q:' .. model end
local function changed() call('HINCRBY', META, 'version', 1) end

-- Shares of replicas that have fallen silent are left to them: they may be granting them on their own.
local function granted_here(limit)
  if missing == 0 or limit < 0 then return limit end
  return limit - math.floor(limit / peers) * missing
end

-- Meters ---------------------------------------------------------------------------------------------

local function window_of(kind, period) if kind < 2 then return 60 end return period end -- 0: never leaves

local function window_key(model, kind) return prefix .. 'w:' .. model .. ':' .. kind end

local function advance_meter(model, kind, window)
  local key = model_key(model)
  if window == 0 then return tonumber(call('HGET', key, 'used' .. kind) or 0) end
  local state = call('HMGET', key, 'used' .. kind, 'oldest' .. kind)
  local used, step_s = tonumber(state[1] or 0), window / PARTS
  local function left(step) return (step + 1) * step_s + window <= now end
  if not state[2] or not left(tonumber(state[2])) then return used end
  local steps, oldest = call('HGETALL', window_key(model, kind)), nil
  for k = 1, #steps, 2 do
    local step = tonumber(steps[k])
    if left(step) then
      used = used - tonumber(steps[k + 1])
      call('HDEL', window_key(model, kind), steps[k])
    elseif not oldest or step < oldest then
      oldest = step
    end
  end
  call('HSET', key, 'used' .. kind, used)
  if oldest then call('HSET', key, 'oldest' .. kind, oldest) else call('HDEL', key, 'oldest' .. kind) end
  return used
end

local function charge(model, kind, amount, window)
  if amount == 0 then return 0 end
  local key = model_key(model)
  call('HINCRBY', key, 'used' .. kind, amount)
  if window == 0 then return 0 end
  local step = math.floor(now / (window / PARTS))
  call('HINCRBY', window_key(model, kind), step, amount)
  call('HSETNX', key, 'oldest' .. kind, step)
  return step
end

local function refund(model, kind, amount, step, window)
  if amount == 0 then return end
  local key = model_key(model)
  if window == 0 then
    amount = math.min(amount, tonumber(call('HGET', key, 'used' .. kind) or 0))
  else
    amount = math.min(amount, tonumber(call('HGET', window_key(model, kind), step) or 0))
    if amount > 0 then call('HINCRBY', window_key(model, kind), step, -amount) end
  end
  call('HINCRBY', key, 'used' .. kind, -amount)
end

local function wait_s(model, kind, over, window)
  if window == 0 then return '' end
  local steps, order = call('HGETALL', window_key(model, kind)), {}
  for k = 1, #steps, 2 do order[#order + 1] = {tonumber(steps[k]), tonumber(steps[k + 1])} end
  table.sort(order, function(a, b) return a[1] < b[1] end)
  for _, entry in ipairs(order) do
    over = over - entry[2]
    if over <= 0 then return exact((entry[1] + 1) * (window / PARTS) + window - now) end
  end
  return ''
end

local function used_of(model)
  local used = call('HMGET', model_key(model), 'used0', 'used1', 'used2')
  return used[1] or '0', used[2] or '0', used[3] or '0'
end

-- Leases ---------------------------------------------------------------------------------------------

local function promote(model)
  local key = model_key(model)
  local state = call('HMGET', key, 'max_concurrent', 'active', 'waiting')
  local room, active, waiting = granted_here(tonumber(state[1])), tonumber(state[2]), tonumber(state[3])
  while waiting > 0 do
    local id = call('ZRANGE', queue_key(model), 0, 0)[1]
    if not id then break end
    local slots = tonumber(call('HGET', lease_key(id), 'slots'))
    if active + slots > room then break end
    active, waiting = active + slots, waiting - 1
    call('ZREM', queue_key(model), id)
    call('HSET', lease_key(id), 'state', 'running')
  end
  call('HSET', key, 'active', active, 'waiting', waiting)
end

local function give_back(id, model, state, slots)
  local key = model_key(model)
  if state == 'running' then
    call('HINCRBY', key, 'active', -slots)
  else
    call('HINCRBY', key, 'waiting', -1)
    call('ZREM', queue_key(model), id)
  end
  call('ZREM', EXPIRY, id)
  if tonumber(call('HGET', key, 'waiting')) > 0 then promote(model) end
end

local function touch(model)
  call('HSET', model_key(model), 'heard', exact(now))
  changed()
end

local function expire_leases()
  while true do
    local ids = call('ZRANGEBYSCORE', EXPIRY, '-inf', exact(now), 'LIMIT', 0, 500)
    if #ids == 0 then return end
    for _, id in ipairs(ids) do
      local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots')
      give_back(id, lease[1], lease[2], tonumber(lease[3]))
      call('HSET', lease_key(id), 'state', 'expired')
      call('PEXPIRE', lease_key(id), SETTLE_MS)
      touch(lease[1])
    end
  end
end

local function live_state(id)
  local state = call('HGET', lease_key(id), 'state')
  if state == 'expired' or not state then return 'gone' end
  return state
end

local function insert(id, model, state, slots, ttl, amounts, period, owner)
  local steps = {}
  for kind = 0, 2 do steps[kind] = charge(model, kind, amounts[kind], window_of(kind, period)) end
  call('HSET', lease_key(id), 'model', model, 'state', state, 'slots', slots, 'owner', owner,
       'a0', amounts[0], 'a1', amounts[1], 'a2', amounts[2], 's0', steps[0], 's1', steps[1], 's2', steps[2])
  call('PERSIST', lease_key(id))
  call('ZADD', EXPIRY, exact(now + ttl), id)
  if state == 'running' then
    call('HINCRBY', model_key(model), 'active', slots)
  else
    call('HINCRBY', model_key(model), 'waiting', 1)
    call('ZADD', queue_key(model), call('HINCRBY', META, 'ticket', 1), id)
  end
  touch(model)
end

-- An ask is eight arguments: lease, model, slots, requests, tokens, billionths of a dollar, ttl, queue.
local function acquire(first)
  local id, model, slots = ARGV[first], ARGV[first + 1], tonumber(ARGV[first + 2])
  local state = call('HMGET', model_key(model), 'max_concurrent', 'max_queue', 'active', 'waiting',
                     'out_queued', 'accepting', 'limit0', 'limit1', 'limit2', 'period')
  if not state[1] then return {'unknown_model', '', model} end
  local known = live_state(id)
  if known ~= 'gone' then return {known, '', used_of(model)} end
  if recovering then return {'recovering', exact(tonumber(meta[3]) - now)} end
  if state[6] == '0' then return {'not_accepting', ''} end
  local whole, active, waiting = tonumber(state[1]), tonumber(state[3]), tonumber(state[4])
  local answer = 'running'
  if active + slots > granted_here(whole) or waiting > 0 then
    if slots > whole and whole > 0 then return {'too_large', ''} end
    if ARGV[first + 7] ~= '1' then return {'concurrency', ''} end
    if waiting + tonumber(state[5]) >= tonumber(state[2]) then return {'queue', ''} end
    answer = 'queued'
  end
  local period = tonumber(state[10])
  local amounts = {[0] = 0, 0, 0}
  local metered = false
  for kind = 0, 2 do
    local limit = tonumber(state[7 + kind])
    if limit >= 0 then metered = true end
  end
  if metered then
    for kind = 0, 2 do
      local limit, window = tonumber(state[7 + kind]), window_of(kind, period)
      amounts[kind] = tonumber(ARGV[first + 3 + kind])
      local used = advance_meter(model, kind, window)
      if limit >= 0 and used + amounts[kind] > granted_here(limit) then
        if amounts[kind] > limit then return {'too_large', ''} end
        return {REASONS[kind], wait_s(model, kind, used + amounts[kind] - granted_here(limit), window)}
      end
    end
  end
  insert(id, model, answer, slots, tonumber(ARGV[first + 6]), amounts, period, replica)
  if metered then return {answer, '', used_of(model)} end
  return {answer, ''}
end

local function refund_lease(id, model)
  local lease = call('HMGET', lease_key(id), 'a0', 'a1', 'a2', 's0', 's1', 's2')
  local period = tonumber(call('HGET', model_key(model), 'period'))
  for kind = 0, 2 do
    refund(model, kind, tonumber(lease[1 + kind]), lease[4 + kind], window_of(kind, period))
  end
end

local function drop(id)
  local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots')
  refund_lease(id, lease[1])
  give_back(id, lease[1], lease[2], tonumber(lease[3]))
  call('DEL', lease_key(id))
  touch(lease[1])
end

local function release(id, actual)
  local lease = call('HMGET', lease_key(id), 'model', 'state', 'slots', 'a0', 'a1', 'a2', 's0', 's1', 's2')
  local model, state = lease[1], lease[2]
  if not model then return {'unknown'} end
  if state ~= 'expired' then give_back(id, model, state, tonumber(lease[3])) end
  local limits = call('HMGET', model_key(model), 'period', 'limit0', 'limit1', 'limit2')
  if limits[2] ~= '-1' or limits[3] ~= '-1' or limits[4] ~= '-1' then
    for kind = 1, 2 do
      local window, estimate = window_of(kind, tonumber(limits[1])), tonumber(lease[4 + kind])
      local used = tonumber(actual[kind])
      if used then
        advance_meter(model, kind, window)
        if used > estimate then charge(model, kind, used - estimate, window) end
        if used < estimate then refund(model, kind, estimate - used, lease[7 + kind], window) end
      end
    end
  end
  call('DEL', lease_key(id))
  touch(model)
  return {state == 'expired' and 'expired' or 'released', model, used_of(model)}
end

-- Models ---------------------------------------------------------------------------------------------

-- Limits are seven fields: model, slots, queue, three meter limits (-1: none), budget period (0: none).
local function configure(limits)
  local model, period = limits[1], limits[7]
  local key = model_key(model)
  if call('EXISTS', key) == 0 then
    call('RPUSH', MODELS, model)
    call('HSET', key, 'active', 0, 'waiting', 0, 'out_active', 0, 'out_queued', 0, 'accepting', 1)
  else
    local before = call('HGET', key, 'period')
    if before ~= period then -- what was spent counts from now on
      local used = advance_meter(model, 2, tonumber(before))
      call('DEL', window_key(model, 2))
      call('HDEL', key, 'used2', 'oldest2')
      charge(model, 2, used, tonumber(period))
    end
  end
  call('HSET', key, 'max_concurrent', limits[2], 'max_queue', limits[3], 'limit0', limits[4],
       'limit1', limits[5], 'limit2', limits[6], 'period', period)
  touch(model)
  promote(model)
end

local function set_outside(model, active, queued)
  local key = model_key(model)
  active, queued = math.max(0, active), math.max(0, queued)
  call('HINCRBY', key, 'active', active - tonumber(call('HGET', key, 'out_active')))
  call('HSET', key, 'out_active', active, 'out_queued', queued)
  touch(model)
  promote(model)
end

local function row(model)
  local state = call('HMGET', model_key(model), 'active', 'waiting', 'out_queued', 'accepting', 'heard',
                     'max_concurrent', 'max_queue', 'limit0', 'limit1', 'limit2', 'period')
  local used = {[0] = 0, 0, 0}
  for kind = 0, 2 do
    if state[8 + kind] ~= '-1' then
      used[kind] = advance_meter(model, kind, window_of(kind, tonumber(state[11])))
    end
  end
  local accepting = recovering and '0' or state[4]
  return {tonumber(state[1]), tonumber(state[2]) + tonumber(state[3]), accepting, exact(now - tonumber(state[5])),
          state[6], state[7], state[8], state[9], state[10], state[11], exact(used[0]), exact(used[1]), exact(used[2])}
end

-- Joining after a start, a restart of the server, or a partition ----------------------------------------

local function join(order)
  local schema = call('HGET', META, 'schema')
  if schema and schema ~= order.schema then return {'schema', schema} end
  local known = call('HMGET', META, 'run_id', 'epoch')
  local epoch = known[2]
  if known[1] ~= order.run_id then -- the server is new: leases and usage may be missing until all have told
    epoch = order.token
    local version = math.max(tonumber(call('HGET', META, 'version') or 0), order.version)
    call('HSET', META, 'schema', order.schema, 'run_id', order.run_id, 'epoch', epoch, 'now', exact(now),
         'version', version + 1, 'recovering_until', exact(now + order.max_ttl_s))
    call('DEL', prefix .. 'joined')
    recovering = true
  end
  expire_leases()
  for _, entry in ipairs(order.models) do
    if call('EXISTS', model_key(entry.limits[1])) == 0 then configure(entry.limits) end
  end
  for _, lease in ipairs(order.leases) do -- they are running, whether they still fit or not
    -- the server of the caller's epoch knows better which of those it granted have ended
    if (order.epoch ~= epoch or lease.here) and live_state(lease.id) == 'gone' and call('EXISTS', model_key(lease.model)) == 1 then
      local period = tonumber(call('HGET', model_key(lease.model), 'period'))
      insert(lease.id, lease.model, lease.state, lease.slots, lease.ttl_s,
             {[0] = lease.amounts[1], lease.amounts[2], lease.amounts[3]}, period, replica)
    end
  end
  if recovering then
    for _, entry in ipairs(order.models) do
      local model = entry.limits[1]
      local period = tonumber(call('HGET', model_key(model), 'period'))
      for kind = 0, 2 do
        local window, told = window_of(kind, period), entry.used[kind + 1]
        local used = advance_meter(model, kind, window)
        if told > used then charge(model, kind, told - used, window) end
      end
    end
  end
  call('SADD', prefix .. 'joined', replica)
  if call('SCARD', prefix .. 'joined') >= order.replicas then call('HSET', META, 'recovering_until', 0) end
  return {'joined', epoch}
end

-- Operations -----------------------------------------------------------------------------------------

local op = ARGV[1]
if op == 'join' then return join(cjson.decode(ARGV[5])) end
if meta[1] ~= ARGV[2] then return {'epoch'} end
call('HSET', META, 'now', exact(now))
if peers > 0 then
  call('ZADD', prefix .. 'members', exact(now), replica)
  local present = call('ZCOUNT', prefix .. 'members', exact(now - absent_s), '+inf')
  missing = math.max(0, math.min(peers, peers - present))
end
expire_leases()

if op == 'acquire' then return acquire(5) end

if op == 'acquire_many' then
  local whole_plan, answers, fresh, refused = ARGV[5] == '1', {}, {}, false
  for first = 6, #ARGV, 8 do
    if call('EXISTS', model_key(ARGV[first + 1])) == 0 then return {{'unknown_model', '', ARGV[first + 1]}} end
  end
  for first = 6, #ARGV, 8 do
    local is_new = live_state(ARGV[first]) == 'gone'
    local answer = acquire(first)
    local granted = answer[1] == 'running' or answer[1] == 'queued'
    refused = refused or not granted
    if is_new and granted then fresh[#fresh + 1] = ARGV[first] end
    answers[#answers + 1] = answer
  end
  if whole_plan and refused then
    for _, id in ipairs(fresh) do drop(id) end
    for k, answer in ipairs(answers) do
      if answer[1] == 'running' or answer[1] == 'queued' then answers[k] = {'plan', ''} end
    end
  end
  return answers
end

if op == 'renew' then
  local state = live_state(ARGV[5])
  if state ~= 'gone' then
    call('ZADD', EXPIRY, exact(now + tonumber(ARGV[6])), ARGV[5])
    touch(call('HGET', lease_key(ARGV[5]), 'model'))
  end
  return {state}
end

if op == 'release' then return release(ARGV[5], {[1] = ARGV[6], [2] = ARGV[7]}) end

if op == 'move' then -- lease, then an ask
  if call('EXISTS', model_key(ARGV[7])) == 0 then return {'unknown_model', '', ARGV[7]} end
  if live_state(ARGV[5]) == 'gone' then return {'gone', ''} end
  local answer = acquire(6)
  if answer[1] == 'running' or answer[1] == 'queued' then drop(ARGV[5]) end
  return answer
end

if op == 'state' then return {live_state(ARGV[5])} end

if op == 'configure' then
  configure({ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]})
  return {'ok'}
end

if op == 'models' then -- as one string: a client reads hundreds of small replies slowly
  local rows = {}
  for k, model in ipairs(call('LRANGE', MODELS, 0, -1)) do rows[k] = {model, unpack(row(model))} end
  return {call('HGET', META, 'version') or '0', exact(now), cjson.encode(rows)}
end

-- The rest concerns one known model.
local model = ARGV[5]
if call('EXISTS', model_key(model)) == 0 then return {'unknown_model', '', model} end

if op == 'row' then return {'row', unpack(row(model))} end
if op == 'queued' then return {'queued', call('ZRANGE', queue_key(model), 0, -1)} end
if op == 'accepting' then
  call('HSET', model_key(model), 'accepting', ARGV[6])
  changed()
  return {'ok'}
end
if op == 'adjust' or op == 'observe' then
  local state = call('HMGET', model_key(model), 'active', 'out_active', 'waiting', 'out_queued')
  local active, outside, waiting, out_queued =
    tonumber(state[1]), tonumber(state[2]), tonumber(state[3]), tonumber(state[4])
  if op == 'adjust' then
    set_outside(model, outside + tonumber(ARGV[6]), out_queued + tonumber(ARGV[7]))
  else
    set_outside(model, tonumber(ARGV[6]) - (active - outside), tonumber(ARGV[7]) - waiting)
  end
  return {'ok'}
end

return redis.error_reply('unknown operation ' .. op)
