-- One operation on the shared store, as one atomic step. The contract is Store in solver/load/store/base.py.
-- The files of this folder are one script, in the order of their numbers.
--
-- KEYS[1]  prefix of every key; it contains a {hash tag}
-- ARGV[1]  operation
-- ARGV[2]  epoch the caller has joined; a server that has lost memory begins another
-- ARGV[3]  seconds by the caller's clock, empty for the server's own; after a T: what stands for the server's
-- ARGV[4]  name of the replica
-- ARGV[5]  number of peers (0: absent replicas keep no share)
-- ARGV[6]  seconds until a silent replica counts as absent
-- ARGV[7]  earliest and
-- ARGV[8]  latest time it can be, by the caller's monotonic clock; empty when the caller cannot tell. After an
--          answer 'late': the time it was then, and the reading of the server's clock, as 'set' and a number
-- ARGV[9]  id of the operation, empty where a copy that comes later does no harm
-- ARGV[10] how often it has been sent: a copy of an attempt that was carried out, or followed by a later one,
--          is not carried out
-- ARGV[11+] arguments of the operation
--
-- Reply: {time, answer}. A script is not rolled back when a call fails, so nothing here relies on a key
-- that somebody may have deleted, and every number is written in full.
--
-- A subject is a model, m:<model>, or a pool of limits that several models share, p:<pool>. What is read of it
-- and of the store's own state is kept in tables, and written back once, at the end.
--
-- Keys: meta (hash: epoch, state, run_id, schema), joined (set),
--       processes (hash: replica -> process and number of its last joining),
--       lifted (hash: stop -> second, while recovering), members (zset), forgotten (zset),
--       models, pools (zset: by order of arrival), expiry (zset: lease -> second),
--       timers (zset: what ends by itself -> second), trash (zset: key to be deleted -> second),
--       recent (zset: attempt at an operation -> second when it is forgotten), c:<calendar> (zset: ends of its periods),
--       <subject> (hash: state, limits, further, pools, rules, meters), s:<model> (hash: stop -> JSON),
--       o:<model> (hash: replica -> active and queued work that it has added from outside, and how often),
--       w:<subject>:<meter> (hash: step -> amount), q:<model> (zset: waiting leases), v:<model> (hash: tenant ->
--       work served over weight, and its latest turn), h:<model> (zset: slots leased -> second, while it is measured),
--       l:<lease> (string), op:<operation id> (string: its answer)

local call, prefix = redis.call, KEYS[1]
local META, EXPIRY, MODELS, POOLS = prefix .. 'meta', prefix .. 'expiry', prefix .. 'models', prefix .. 'pools'
local TIMERS, TRASH, JOINED = prefix .. 'timers', prefix .. 'trash', prefix .. 'joined'
local FORGOTTEN, MEMBERS, RECENT = prefix .. 'forgotten', prefix .. 'members', prefix .. 'recent'
local PARTS = 60       -- steps a window
local SETTLE_S = 600   -- how long an expired lease can still be settled, and an operation recognised
local RECENT_S = 10    -- how long an attempt is remembered beyond the time at which it would be late anyway
local LEAP_S = 3000    -- a clock of the caller's (in tests) that moves on by more at once was set
local AT_ONCE = 1000   -- leases that one operation ends at most: about ten milliseconds
local op, replica = ARGV[1], ARGV[4]
local peers, absent_s = tonumber(ARGV[5]), tonumber(ARGV[6])
local missing = 0      -- peers that are silent, and may be granting their share on their own

local function num(text, default) return tonumber(text or default) or default end
local function exact(number) return string.format('%.17g', number) end
local function int(number) -- neither an exponent nor a negative zero, which commands refuse
  local text = string.format('%.0f', number)
  return text == '-0' and '0' or text
end

-- Time ------------------------------------------------------------------------------------------------
--
-- now    seconds that have passed, for meters. The server's clock may be set while it runs: steps back are
--        left out. A reading later than the caller says it can be means that the message is late, or that
--        the clock was set forward: nothing is done, and a caller who still waits for the answer says so.
-- alive  the same for leases. Time that no caller can vouch for may be a step of the clock: the gap before
--        the first message of a process, say. And time made up for may have passed before a lease began.
--        Neither shortens leases, so that none ends while its holder works. Short gaps add up to no more
--        than the longest time to live in as long a time, so that leases also end where every process is new.

local wall = tonumber(ARGV[3])
local by_caller = wall ~= nil
if not wall then wall = tonumber(string.match(ARGV[3], '^T(.+)$')) end
if not wall then
  local time = call('TIME')
  wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local STATE = 'ddddddddddddddd'
local meta = call('HMGET', META, 'epoch', 'state')
local has_state = meta[2] ~= false
local now, lag, peak, peak_now, late = wall, 0, wall, wall, false
local doubt, doubt_until = 0, 0                      -- time left out for want of somebody who vouches, and until when it counts
local leases, models, version, ticket = 0, 0, 0, 0   -- how many there are; numbers that only grow
local due, due_alive = math.huge, math.huge          -- before that, nothing ends by itself, and no lease
local recovering_until, longest_s = 0, 0
if has_state then
  local before_wall, before
  before_wall, before, lag, peak, peak_now, doubt, doubt_until, leases, models, version, ticket, due, due_alive,
    recovering_until, longest_s = struct.unpack(STATE, meta[2])
  local step = math.max(0, wall - before_wall)
  local earliest, latest, set = tonumber(ARGV[7]), tonumber(ARGV[8]), string.match(ARGV[8], '^set(.*)$')
  local max_gap = by_caller and LEAP_S or longest_s
  now = before + step
  if meta[1] ~= ARGV[2] then earliest, set = nil, nil end -- another epoch may have another time
  local vouched = set and earliest + math.max(0, wall - tonumber(set))
  if vouched then -- others may have seen more of the time than the caller
    now = math.max(before, vouched)
  elseif earliest and not set then
    late = now > latest
    if earliest > now and wall >= before_wall then -- time that was lost before: leases may be younger
      lag = lag + earliest - now
    end
    now = math.max(now, earliest)
  elseif before_wall < peak and wall >= peak and wall - peak <= max_gap then -- set back, and now right
    now = math.max(before, peak_now + wall - peak)
  elseif step > max_gap then
    lag = lag + step
  elseif not earliest and not by_caller then -- nobody vouches for it
    if before - lag >= doubt_until then doubt, doubt_until = 0, before - lag + max_gap end
    local doubted = math.max(0, math.min(step, max_gap - doubt))
    doubt, lag = doubt + doubted, lag + doubted
  end
  if wall > peak then peak, peak_now = wall, now end
end
if not has_state then late = wall > (tonumber(ARGV[8]) or math.huge) end -- it was sent to a server that has lost its memory since
local alive = now - lag
local recovering = alive < recovering_until

local function expect(set, second, member)
  call('ZADD', set, exact(second), member)
  due = math.min(due, second + (set == TRASH and lag or 0))
end

local function next_ticket()
  ticket = ticket + 1
  return ticket
end

local function lease_key(id) return prefix .. 'l:' .. id end
local function stops_key(model) return prefix .. 's:' .. model end
local function outside_key(model) return prefix .. 'o:' .. model end
local function queue_key(model) return prefix .. 'q:' .. model end
local function served_key(model) return prefix .. 'v:' .. model end
local function history_key(model) return prefix .. 'h:' .. model end
local function window_key(subject, meter) return prefix .. 'w:' .. subject .. ':' .. meter end

-- Whether this message is a copy of one that was carried out, or is followed by a later attempt.
local function is_copy()
  local id, attempt = ARGV[9], tonumber(ARGV[10])
  if id == '' then return false end
  local forgotten = exact((tonumber(ARGV[8]) or now) + RECENT_S)
  due = math.min(due, now + RECENT_S)
  local is_new = call('ZADD', RECENT, forgotten, id) == 1
  if attempt == 1 then return not is_new end
  return call('ZADD', RECENT, forgotten, id .. '#' .. ARGV[10]) == 0
end

-- Shares of replicas that have fallen silent are left to them: they may be granting them on their own.
local function granted_here(limit)
  if missing == 0 or limit < 0 then return limit end
  return limit - math.floor(limit / peers) * missing
end

-- Subjects --------------------------------------------------------------------------------------------

local SUBJECT = 'dddddddddddddddddddddd'
local LIMITS = 'dddddd'
local NOTHING = {}
local loaded = {}

-- A model or pool as it is kept, or false when it is unknown.
local function load(subject)
  local m = loaded[subject]
  if m ~= nil then return m end
  local kept = call('HMGET', prefix .. subject, 'limits', 'state', 'further', 'pools', 'rules', 'meters')
  if not kept[1] then
    loaded[subject] = false
    return false
  end
  m = {subject = subject, name = string.sub(subject, 3), used = {}, oldest = {}, further = NOTHING, pools = NOTHING}
  m.slots, m.places, m.limit0, m.limit1, m.limit2, m.period = struct.unpack(LIMITS, kept[1])
  local used, oldest = m.used, m.oldest
  if kept[2] then
    m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a, m.seen_q, m.accepting, m.held,
      m.heard, used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'], m.usage, m.resets, m.level,
      m.turns, m.measured = struct.unpack(SUBJECT, kept[2])
  else
    m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a, m.seen_q = 0, 0, 0, 0, 0, 0, 0, 0
    m.accepting, m.held, m.heard, m.usage, m.resets, m.level, m.turns, m.measured = 1, 0, now, 0, 0, 0, 0, -1
    used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'] = 0, 0, 0, -1, -1, -1
  end
  if kept[3] then m.further_text, m.further = kept[3], cjson.decode(kept[3]) end
  if kept[4] then m.pools_text, m.pools = kept[4], cjson.decode(kept[4]) end
  if kept[5] then m.rules_text, m.rules = kept[5], cjson.decode(kept[5]) end
  if kept[6] then
    for key, entry in pairs(cmsgpack.unpack(kept[6])) do used[key], oldest[key] = entry[1], entry[2] end
  end
  m.metered = m.limit0 >= 0 or m.limit1 >= 0 or m.limit2 >= 0 or #m.further > 0
  loaded[subject] = m
  return m
end

local function load_model(model) return load('m:' .. model) end
local function load_pool(pool) return load('p:' .. pool) end

local function touch(m)
  m.heard, m.changed = now, true
  version = version + 1
end

local function write_back()
  for subject, m in pairs(loaded) do
    if m and m.changed then
      local used, oldest = m.used, m.oldest
      local state = struct.pack(SUBJECT, m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a,
        m.seen_q, m.accepting, m.held, m.heard, used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'],
        m.usage, m.resets, m.level, m.turns, m.measured)
      if m.further ~= NOTHING then
        local meters = {}
        for key, amount in pairs(used) do
          if #key > 1 then meters[key] = {amount, oldest[key]} end
        end
        call('HSET', prefix .. subject, 'state', state, 'meters', cmsgpack.pack(meters))
      else
        call('HSET', prefix .. subject, 'state', state)
      end
    end
  end
  call('HSET', META, 'state', struct.pack(STATE, wall, now, lag, peak, peak_now, doubt, doubt_until, leases, models, version,
    ticket, due, due_alive, recovering_until, longest_s))
end

-- The pools a model or pool draws on, with those that they draw on in turn; nil when one has been deleted.
local function chain_of(m)
  if m.chain then return m.chain end
  if #m.pools == 0 then
    m.chain = NOTHING
    return NOTHING
  end
  local chain, seen, k = {}, {}, 0
  local function add(names)
    for _, name in ipairs(names) do
      if not seen[name] then
        seen[name] = true
        chain[#chain + 1] = load_pool(name)
        if not chain[#chain] then return false end
      end
    end
    return true
  end
  if not add(m.pools) then return nil end
  while k < #chain do
    k = k + 1
    if not add(chain[k].pools) then return nil end
  end
  m.chain = chain
  return chain
end
