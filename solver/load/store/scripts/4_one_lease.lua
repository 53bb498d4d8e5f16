-- Operations on one lease ------------------------------------------------------------------------------
--
-- They are most of the work, so they are answered before the functions of the files that follow are made:
-- making those would take longer than the whole operation.

local FIRST = 11 -- of an operation's own arguments

local operations = {}

function operations.acquire() return acquire(FIRST) end

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

function operations.drop()
  if live_state(ARGV[FIRST]) ~= 'gone' then drop(ARGV[FIRST]) end
  return {'ok'}
end

function operations.state() return {live_state(ARGV[FIRST])} end

local TAKES_MEMORY = {acquire = true, acquire_many = true, move = true, configure = true, join = true}

-- What comes before any operation but joining; returns the answer when the operation cannot be carried out.
local function begin()
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
  if is_copy() then return {'copy'} end
end

local function finish(answer)
  if answer[1] == 'unknown_model' and call('ZSCORE', MODELS, answer[3]) then
    call('HDEL', META, 'epoch') -- it is known, and somebody has deleted it
    answer = {'epoch'}
  end
  if damaged then recount() end
  return {exact(now), answer}
end

-- A server that is full refuses what takes memory before anything is written. What only gives back has to
-- get through: after one harmless deletion the server lets the rest of a script write.
if not TAKES_MEMORY[op] and not late then call('ZREM', EXPIRY, '') end
if late then return {exact(now), {'late', exact(wall)}} end
if operations[op] and now < due then
  local refused = begin()
  if damaged then recount() end
  return finish(refused or operations[op]())
end
