-- Operations -------------------------------------------------------------------------------------------

local FIRST = 9 -- of an operation's own arguments

-- A write that is not the same when repeated is carried out once for each operation id.
local function once(id, work)
  local key = prefix .. 'op:' .. id
  local before = call('GET', key)
  if before then return cjson.decode(before) end
  local answer = work()
  call('SET', key, cjson.encode(answer))
  expect(TRASH, exact(alive + SETTLE_S), 'op:' .. id)
  return answer
end

local function is_granted(answer) return answer[1] == 'running' or answer[1] == 'queued' end

local operations = {}

function operations.acquire() return acquire(FIRST) end

function operations.acquire_many()
  local whole_plan, answers, fresh, refused = ARGV[FIRST] == '1', {}, {}, false
  for first = FIRST + 1, #ARGV, ASK do
    if call('EXISTS', model_key(ARGV[first + 1])) == 0 then return {'unknown_model', '', ARGV[first + 1]} end
  end
  for first = FIRST + 1, #ARGV, ASK do
    local is_new = live_state(ARGV[first]) == 'gone'
    local answer = acquire(first)
    refused = refused or not is_granted(answer)
    if is_new and is_granted(answer) then fresh[#fresh + 1] = ARGV[first] end
    answers[#answers + 1] = answer
  end
  if whole_plan and refused then
    for _, id in ipairs(fresh) do drop(id) end
    for k, answer in ipairs(answers) do
      if is_granted(answer) then answers[k] = {'plan', ''} end
    end
  end
  return answers
end

function operations.renew()
  local id, ttl = ARGV[FIRST], num(ARGV[FIRST + 1], 0)
  local state = live_state(id)
  if state ~= 'gone' then
    call('ZADD', EXPIRY, exact(alive + ttl), id)
    touch(call('HGET', lease_key(id), 'model') or '')
    return {state}
  end
  -- Somebody has deleted its key, and it still counts: the caller may tell what it was.
  if ARGV[FIRST + 2] and call('EXISTS', lease_key(id)) == 0 and call('ZSCORE', EXPIRY, id) then
    local lease = cjson.decode(ARGV[FIRST + 2])
    call('HSET', lease_key(id), 'model', lease.model, 'state', lease.state, 'slots', int(lease.slots),
         'owner', replica, 'fill', lease.fill, 'a0', 0, 'a1', 0, 'a2', 0, 's0', 0, 's1', 0, 's2', 0)
    call('ZADD', EXPIRY, exact(alive + ttl), id)
    damaged = true -- it may have been promoted meanwhile: counts follow what it is now
    return {lease.state}
  end
  return {'gone'}
end

function operations.release() return release(ARGV[FIRST], {[1] = ARGV[FIRST + 1], [2] = ARGV[FIRST + 2]}) end

-- The first half of a move: lease, then an ask. The old lease is dropped once the caller knows of the new one,
-- so that whatever is lost in between, it never holds less than it believes.
function operations.move()
  if call('EXISTS', model_key(ARGV[FIRST + 2])) == 0 then return {'unknown_model', '', ARGV[FIRST + 2]} end
  if live_state(ARGV[FIRST]) == 'gone' then return {'gone', ''} end
  return acquire(FIRST + 1)
end

function operations.drop()
  if live_state(ARGV[FIRST]) ~= 'gone' then drop(ARGV[FIRST]) end
  return {'ok'}
end

function operations.state() return {live_state(ARGV[FIRST])} end

function operations.configure()
  local limits = {}
  for k = 1, 7 do limits[k] = ARGV[FIRST + k - 1] end
  configure(limits)
  return {'ok'}
end

function operations.forget()
  forget(ARGV[FIRST])
  return {'ok'}
end

function operations.models() -- as one string: a client reads hundreds of small replies slowly
  local rows = {}
  for k, model in ipairs(call('ZRANGE', MODELS, 0, -1)) do
    local fields = row(model)
    if not fields then -- somebody has deleted it
      call('HDEL', META, 'epoch')
      return {'epoch'}
    end
    rows[k] = {model, unpack(fields)}
  end
  return {call('HGET', META, 'version') or '0', exact(now), cjson.encode(rows)}
end

function operations.next_event()
  local lease, timer = call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES'), call('ZRANGE', TIMERS, 0, 0, 'WITHSCORES')
  return {lease[2] and exact(tonumber(lease[2]) + lag) or '', timer[2] or ''}
end

-- Those below concern one model, which has to be known.
local of_model = {}

function of_model.row(model) return {'row', unpack(row(model))} end
function of_model.queued(model) return {'queued', call('ZRANGE', queue_key(model), 0, -1)} end
function of_model.end_leases(model) return {'ok', end_leases(model)} end

function of_model.stop(model) -- owner, name, reason, seconds or empty, extend
  local for_s = tonumber(ARGV[FIRST + 4])
  local until_s = for_s and exact(now + for_s) or '-1'
  return {'ok', stop(model, ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], exact(now), until_s,
                     ARGV[FIRST + 5] == '1')}
end

function of_model.resume(model) -- owner, name, every name
  return {'ok', resume(model, ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3] == '1')}
end

function of_model.adjust(model) -- active, queued, operation id
  return once(ARGV[FIRST + 3], function() return adjust(model, num(ARGV[FIRST + 1], 0), num(ARGV[FIRST + 2], 0)) end)
end

function of_model.observe(model) -- active, queued, ttl or empty, operation id
  return once(ARGV[FIRST + 4], function()
    return observe(model, num(ARGV[FIRST + 1], 0), num(ARGV[FIRST + 2], 0), tonumber(ARGV[FIRST + 3]))
  end)
end

local TAKES_MEMORY = {acquire = true, acquire_many = true, move = true, configure = true, join = true}

local function run()
  -- A server that is full refuses what takes memory before anything is written. What only gives back has to
  -- get through: after one harmless deletion the server lets the rest of a script write.
  if not TAKES_MEMORY[op] and not late then call('ZREM', EXPIRY, '') end
  if late then return {'late', exact(wall)} end
  if op == 'join' then return join(cjson.decode(ARGV[FIRST])) end
  if meta[1] ~= ARGV[2] then return {'epoch'} end
  if call('ZCARD', EXPIRY) ~= num(meta[7], 0) or call('ZCARD', MODELS) ~= num(meta[8], 0) then
    call('HDEL', META, 'epoch') -- a part is missing that cannot be made anew here: let every replica tell
    return {'epoch'}
  end
  note_time()
  if peers > 0 then
    call('ZADD', MEMBERS, exact(now), replica)
    local present = call('ZCOUNT', MEMBERS, exact(now - absent_s), '+inf')
    missing = math.max(0, math.min(peers, peers - present))
  end
  expire_leases()
  if now >= due then
    run_timers()
    empty_trash()
    local timer, key = call('ZRANGE', TIMERS, 0, 0, 'WITHSCORES'), call('ZRANGE', TRASH, 0, 0, 'WITHSCORES')
    due = math.min(num(timer[2], math.huge), num(key[2], math.huge) + lag)
    if due < math.huge then call('HSET', META, 'due', exact(due)) else call('HDEL', META, 'due') end
  end
  if damaged then recount() end
  if operations[op] then return operations[op]() end
  local model = ARGV[FIRST]
  if call('HEXISTS', model_key(model), 'max_concurrent') == 0 then
    if not call('ZSCORE', MODELS, model) then return {'unknown_model', '', model} end
    call('HDEL', META, 'epoch') -- somebody has deleted it
    return {'epoch'}
  end
  return of_model[op](model)
end

local answer = run()
if answer[1] == 'unknown_model' and call('ZSCORE', MODELS, answer[3]) then
  call('HDEL', META, 'epoch') -- it is known, and somebody has deleted it
  answer = {'epoch'}
end
if damaged then recount() end
return {exact(now), answer}
