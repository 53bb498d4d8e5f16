-- Operations -------------------------------------------------------------------------------------------

-- A write that is not the same when repeated is carried out once for each operation id.
local function once(id, work)
  local key = prefix .. 'op:' .. id
  local before = call('GET', key)
  if before then return cjson.decode(before) end
  local answer = work()
  call('SET', key, cjson.encode(answer))
  schedule(DELETIONS, alive + SETTLE_S, 'op:' .. id)
  return answer
end

do -- a script has at most 200 locals at a time
  local function is_granted(answer) return answer[1] == 'running' or answer[1] == 'queued' end

  -- Undo what a refused plan was granted, and what its tenants were charged with.
  local function undo_plan(fresh, marks)
    for _, id in ipairs(fresh) do drop(id, true) end
    for model, mark in pairs(marks) do
      local m = load_model(model)
      m.level, m.turns, m.line = mark.level, mark.turns, nil
      for tenant, own in pairs(mark.accounts) do set_account(m, tenant, own[1], own[2]) end
    end
    for id, passed in pairs(passed_before) do
      local lease = read_lease(id)
      if lease then
        lease.passed = passed
        write_lease(id, lease)
      end
    end
  end

  function operations.acquire_many()
    local whole_plan, answers, fresh, refused, marks = ARGV[FIRST] == '1', {}, {}, false, {}
    for first = FIRST + 1, #ARGV, ASK do
      local m, tenant = load_model(ARGV[first + 1]), ARGV[first + 10]
      if not m then return {'unknown_model', '', ARGV[first + 1]} end
      if whole_plan then
        local mark = marks[m.name] or {level = m.level, turns = m.turns, accounts = {}}
        mark.accounts[tenant], marks[m.name] = account(m, tenant), mark
      end
    end
    if whole_plan then passed_before = {} end
    for first = FIRST + 1, #ARGV, ASK do
      local is_new = live_state(ARGV[first]) == 'gone'
      local answer = acquire(first)
      refused = refused or not is_granted(answer)
      if is_new and is_granted(answer) then fresh[#fresh + 1] = ARGV[first] end
      answers[#answers + 1] = answer
    end
    if whole_plan and refused then
      undo_plan(fresh, marks)
      for k, answer in ipairs(answers) do
        if is_granted(answer) then answers[k] = {'plan', ''} end
      end
    end
    return answers
  end
end

-- The first half of a move: lease, then an ask. The old lease is dropped once the caller knows of the new one,
-- so that whatever message is lost in between, it never holds less than it has recorded. In pools that both draw on, the new
-- one takes the place of the old.
function operations.move()
  if not load_model(ARGV[FIRST + 2]) then return {'unknown_model', '', ARGV[FIRST + 2]} end
  if live_state(ARGV[FIRST]) == 'gone' then return {'gone', ''} end
  return acquire(FIRST + 1, ARGV[FIRST])
end

function operations.configure()
  local limits = {}
  for k = 1, FIELDS do limits[k] = ARGV[FIRST + k - 1] end
  for _, pool in ipairs(limits[10] ~= '' and cjson.decode(limits[10]) or NOTHING) do
    if not load_pool(pool) then return {'unknown_pool', '', pool} end
  end
  local before = load(limits[1] .. ':' .. limits[2])
  local set_at = math.max(now, before and before.set_at + 0.001 or 0) -- later than what is replaced, whatever the clock says
  configure(limits, set_at)
  return {'ok', exact(set_at)}
end

function operations.forget()
  forget(ARGV[FIRST])
  return {'ok'}
end

function operations.forget_pool() return {'ok', forget_pool(ARGV[FIRST])} end

-- What replicas publish to each other under a topic: topic, text, seconds for which it is valid. Returns of each replica
-- its name, the age of its text in seconds, and the text.
function operations.exchange()
  local key, ttl, answer = prefix .. 'x:' .. ARGV[FIRST], num(ARGV[FIRST + 2], 0), {'entries'}
  call('HSET', key, replica, exact(now) .. ' ' .. ARGV[FIRST + 1])
  local entries = call('HGETALL', key)
  for k = 1, #entries, 2 do
    local written_s, text = string.match(entries[k + 1], '^(%S+) (.*)$')
    local age = now - num(written_s, -math.huge)
    if age > ttl then call('HDEL', key, entries[k])
    else
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = entries[k], exact(math.max(0, age)), text
    end
  end
  return answer
end

do
  local function rows_of(set, kind)
    local rows = {}
    for k, name in ipairs(call('ZRANGE', set, 0, -1)) do
      local m = load(kind .. name)
      if not m then -- its key was deleted
        needs_rejoin = true
        return rows
      end
      rows[k] = {name, unpack(row(m))}
    end
    return rows
  end

  function operations.models() -- as one string: a client reads hundreds of small replies slowly
    if not lists_are_whole() then
      needs_rejoin = true
      return {'epoch'}
    end
    return {int(version), exact(now), cjson.encode(rows_of(MODELS, 'm:')), cjson.encode(rows_of(POOLS, 'p:'))}
  end
end

function operations.next_event()
  local lease, timer = call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES'), call('ZRANGE', TIMERS, 0, 0, 'WITHSCORES')
  return {lease[2] and exact(tonumber(lease[2]) + lag) or '', timer[2] or ''}
end

-- Those below concern one model, which has to be known.
local of_model = {}

function of_model.row(m)
  local free = math.huge
  for _, pool in ipairs(chain_of(m) or NOTHING) do free = math.min(free, math.max(0, pool.slots - pool.active)) end
  return {'row', cjson.encode(row(m)), free < math.huge and int(free) or ''}
end

function of_model.end_leases(m) -- operation id
  recount()
  if needs_rejoin then return {'epoch'} end -- the caller's report would bring back what it has ended
  return once(ARGV[FIRST + 1], function() return {'ok', end_leases(m.name)} end)
end

-- Who waits, in the order in which they start if each fits, and how many slots each takes.
function of_model.queued(m)
  local line, rules = line_of(m), m.rules or RULES
  local ids, slots, at, accounts, turns = {}, {}, {}, {}, m.turns
  for k, entry in ipairs(line) do at[k], accounts[k] = 1, {entry.account[1], entry.account[2]} end
  for _ = 1, m.waiting do
    local first, place = nil, nil
    for k in pairs(at) do
      local other = standing(accounts[k], line[k].places[at[k]])
      if not first or before(other, place) then first, place = k, other end
    end
    if not first then break end
    local id = line[first].ids[at[first]]
    local lease = read_lease(id)
    ids[#ids + 1], slots[#slots + 1] = id, int(lease and lease.slots or 1)
    turns = turns + 1
    local weight = lease and lease.tenant and rules.weights[lease.tenant] or 1
    accounts[first] = {accounts[first][1] + (lease and lease.work or 1) / weight, turns}
    at[first] = at[first] + 1
    if at[first] > #line[first].ids then at[first] = nil end
  end
  return {'queued', ids, slots}
end

-- What others use meanwhile is not forgotten by a second attempt.
local function reset_once(m)
  return once(ARGV[FIRST + 1], function()
    reset_usage(m)
    return usage_after({'ok'}, m, NOTHING)
  end)
end

of_model.reset_usage = reset_once

function of_model.stop(m) -- owner, name, reason, seconds or empty, extend
  local for_s = tonumber(ARGV[FIRST + 4])
  local until_s = for_s and exact(now + for_s) or '-1'
  return {'ok', stop(m, ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3], exact(now), until_s, ARGV[FIRST + 5] == '1')}
end

function of_model.resume(m) -- owner, name, every name, operation id
  stops_of(m)
  if needs_recount then recount() end
  if needs_rejoin then return {'epoch'} end -- likewise, what it has lifted
  return once(ARGV[FIRST + 4], function()
    return {'ok', resume(m, ARGV[FIRST + 1], ARGV[FIRST + 2], ARGV[FIRST + 3] == '1')}
  end)
end

function of_model.adjust(m) -- active, queued, operation id
  return once(ARGV[FIRST + 3], function() return adjust(m, num(ARGV[FIRST + 1], 0), num(ARGV[FIRST + 2], 0)) end)
end

function of_model.observe(m) -- active, queued, ttl or empty, age, operation id
  return once(ARGV[FIRST + 5], function()
    return observe(m, num(ARGV[FIRST + 1], 0), num(ARGV[FIRST + 2], 0), tonumber(ARGV[FIRST + 3]), num(ARGV[FIRST + 4], 0))
  end)
end

function operations.pool()
  local m = load_pool(ARGV[FIRST])
  if not m then return {'unknown_pool', '', ARGV[FIRST]} end
  return {'row', cjson.encode(row(m))}
end

function operations.reset_pool()
  local m = load_pool(ARGV[FIRST])
  if not m then return {'unknown_pool', '', ARGV[FIRST]} end
  return reset_once(m)
end

local function run()
  if op == 'join' then return join(cjson.decode(ARGV[FIRST])) end
  local refused = begin()
  if refused then return refused end
  run_due()
  if needs_recount then recount() end
  if needs_rejoin then return {'epoch'} end
  if operations[op] then return operations[op]() end
  local m = load_model(ARGV[FIRST])
  if not m then return {'unknown_model', '', ARGV[FIRST]} end
  return of_model[op](m)
end

return finish(run())
end)()
end)()
