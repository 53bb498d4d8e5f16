-- Operations on one lease ------------------------------------------------------------------------------
--
-- They are most of the work, so they are answered before the functions of the files that follow are made:
-- making those would take longer than the whole operation.

local FIRST = 11 -- of an operation's own arguments

local operations = {}

function operations.acquire() return acquire(FIRST) end

function operations.renew()
  local id, ttl = ARGV[FIRST], num(ARGV[FIRST + 1], 0)
  local lease = read_lease(id)
  local state = live(id, lease)
  if state ~= 'gone' then
    list_lease(id, ttl)
    local m = load_model(lease.model)
    if m then touch(m) end
    return {state}
  end
  -- Its key was deleted, and it still counts: the caller may describe it.
  if ARGV[FIRST + 2] and not lease and call('ZSCORE', EXPIRY, id) then
    local described = cjson.decode(ARGV[FIRST + 2])
    local m = load_model(described.model)
    local chain = m and chain_of(m) or NOTHING
    write_lease(id, {charges = m and charges_of(m, chain, described.amounts), model = described.model, state = described.state, slots = described.slots, owner = replica, fill = num(described.fill, 1),
                     since = now, ticket = next_ticket(), priority = described.priority, passed = 0, work = described.work,
                     tenant = described.tenant ~= '' and described.tenant or nil, pools = names_of(chain)})
    list_lease(id, ttl)
    needs_recount = true -- it may have been promoted meanwhile: counts follow what it is now
    return {described.state}
  end
  return {'gone'}
end

function operations.release()
  return release(ARGV[FIRST], {[1] = tonumber(ARGV[FIRST + 1]), [2] = tonumber(ARGV[FIRST + 2])})
end

function operations.drop()
  if live_state(ARGV[FIRST]) ~= 'gone' then drop(ARGV[FIRST]) end
  return {'ok'}
end

function operations.state() return {live_state(ARGV[FIRST])} end

local TAKES_MEMORY = {acquire = true, acquire_many = true, move = true, configure = true, join = true, exchange = true}
local begun = false

-- What comes before any operation but joining; returns the answer when the operation cannot be carried out.
local function begin()
  if meta[1] ~= ARGV[2] then return {'epoch'} end
  begun = true
  if call('ZCARD', EXPIRY) ~= leases then
    needs_rejoin = true -- a missing key cannot be rebuilt here: every replica has to report
    return {'epoch'}
  end
  if peers > 0 then
    call('ZADD', MEMBERS, exact(now), replica)
    local present = call('ZCOUNT', MEMBERS, exact(now - absent_s), '+inf')
    missing = math.max(0, math.min(peers, peers - present))
  end
  expire_leases()
  if is_copy() then return {'copy'} end
end

local function finish(answer)
  local list = answer[1] == 'unknown_model' and MODELS or answer[1] == 'unknown_pool' and POOLS
  if list and (call('ZSCORE', list, answer[3]) or not lists_are_whole()) then
    needs_rejoin = true -- the key of the model or pool, or a list of them, was deleted
  end
  if needs_recount and not needs_rejoin then recount() end
  if begun then write_back() end
  if needs_rejoin then
    if meta[1] then call('HSET', META, 'epoch_before', meta[1]) end
    call('HDEL', META, 'epoch')
    answer = {'epoch'}
  end
  return {time_text, answer}
end

if late then return {time_text, {'late', exact(wall)}} end
-- A server that is full refuses what takes memory before anything is written. What only gives back has to
-- get through: after one harmless deletion the server lets the rest of a script write. A release begins with one.
local is_quick = operations[op] and now < due and alive < due_alive
if not TAKES_MEMORY[op] and not (is_quick and op == 'release') then call('ZREM', EXPIRY, '') end
if is_quick then return finish(begin() or operations[op]()) end
