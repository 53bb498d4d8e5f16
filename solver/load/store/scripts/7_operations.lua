-- Operations -------------------------------------------------------------------------------------------

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

-- The first half of a move: lease, then an ask. The old lease is dropped once the caller knows of the new one,
-- so that whatever is lost in between, it never holds less than it believes.
function operations.move()
  if call('EXISTS', model_key(ARGV[FIRST + 2])) == 0 then return {'unknown_model', '', ARGV[FIRST + 2]} end
  if live_state(ARGV[FIRST]) == 'gone' then return {'gone', ''} end
  return acquire(FIRST + 1)
end

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

local function run()
  if op == 'join' then return join(cjson.decode(ARGV[FIRST])) end
  local refused = begin()
  if refused then return refused end
  if now >= due then
    run_timers()
    empty_trash()
    call('ZREMRANGEBYSCORE', RECENT, '-inf', exact(now))
    local timer, key = call('ZRANGE', TIMERS, 0, 0, 'WITHSCORES'), call('ZRANGE', TRASH, 0, 0, 'WITHSCORES')
    local recent = call('ZRANGE', RECENT, 0, 0, 'WITHSCORES')
    due = math.min(num(timer[2], math.huge), num(key[2], math.huge) + lag, num(recent[2], math.huge))
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

return finish(run())
