-- What the other operations are made of: keys, timers, and models and pools as they are kept -----------------

return (function()
local MODELS, POOLS, TIMERS, DELETIONS = prefix .. 'models', prefix .. 'pools', prefix .. 'timers', prefix .. 'deletions'
local FORGOTTEN, MEMBERS, SINCE_LOSS = prefix .. 'forgotten', prefix .. 'members', prefix .. 'since_loss'
local SETTLE_S = 600   -- how long an expired lease can still be settled, and an operation recognised
local AT_ONCE = 1000   -- leases that one operation ends at most: about ten milliseconds
local missing = 0      -- peers that are silent, and may be granting their share by themselves

local function schedule(set, second, member)
  call('ZADD', set, exact(second), member)
  due = math.min(due, second + (set == DELETIONS and lag or 0))
end

local function next_ticket()
  ticket = ticket + 1
  return ticket
end

local function lease_key(id) return prefix .. 'l:' .. id end
local function stops_key(model) return prefix .. 's:' .. model end
local function queue_key(model) return prefix .. 'q:' .. model end
local function served_key(model) return prefix .. 'v:' .. model end
local function history_key(model) return prefix .. 'h:' .. model end
local function window_key(subject, meter) return prefix .. 'w:' .. subject .. ':' .. meter end

-- Whether this message is a copy of one that was carried out, or is followed by a later attempt.
local function is_copy()
  local id, attempt = ARGV[9], tonumber(ARGV[10])
  if id == '' then return false end
  local forgotten = exact((tonumber(ARGV[8]) or metered) + RECENT_S)
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

local NOTHING = {}
local loaded = {}

-- A model or pool as it is kept, or false when it is unknown.
local function load(subject)
  local m = loaded[subject]
  if m ~= nil then return m end
  local kept = call('HMGET', prefix .. subject, 'limits', 'state', 'further', 'pools', 'rules', 'meters', 'set')
  if not kept[1] then
    loaded[subject] = false
    return false
  end
  m = {subject = subject, name = string.sub(subject, 3), used = {}, oldest = {}, further = NOTHING, pools = NOTHING}
  m.slots, m.places, m.limit0, m.limit1, m.limit2, m.period = struct.unpack(LIMITS, kept[1])
  local used, oldest = m.used, m.oldest
  if kept[2] then
    m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a, m.seen_q, m.accepting, m.held,
      m.updated_s, used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'], m.usage, m.resets, m.level,
      m.turns, m.measured = struct.unpack(SUBJECT, kept[2])
  else
    m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a, m.seen_q = 0, 0, 0, 0, 0, 0, 0, 0
    m.accepting, m.held, m.updated_s, m.usage, m.resets, m.level, m.turns, m.measured = 1, 0, now, 0, 0, 0, 0, -1
    used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'] = 0, 0, 0, -1, -1, -1
  end
  if kept[3] then m.further_text, m.further = kept[3], cjson.decode(kept[3]) end
  if kept[4] then m.pools_text, m.pools = kept[4], cjson.decode(kept[4]) end
  if kept[5] then m.rules_text, m.rules = kept[5], cjson.decode(kept[5]) end
  if kept[6] then
    m.counts_further = true
    for key, entry in pairs(cmsgpack.unpack(kept[6])) do used[key], oldest[key] = entry[1], entry[2] end
  end
  m.set_at = num(kept[7], 0)
  m.metered = m.limit0 >= 0 or m.limit1 >= 0 or m.limit2 >= 0 or #m.further > 0
  loaded[subject] = m
  return m
end

-- Whether the lists of models and of pools are as they were written: a key may have been deleted.
local function lists_are_whole() return call('ZCARD', MODELS) + call('ZCARD', POOLS) == listed end

local function load_model(model) return load('m:' .. model) end
local function load_pool(pool) return load('p:' .. pool) end

local function touch(m)
  m.updated_s, m.changed = now, true
  version = version + 1
end

local function write_back()
  for subject, m in pairs(loaded) do
    if m and m.changed then
      local used, oldest = m.used, m.oldest
      local state = struct.pack(SUBJECT, m.active, m.waiting, m.out_active, m.out_queued, m.added_a, m.added_q, m.seen_a,
        m.seen_q, m.accepting, m.held, m.updated_s, used['0'], used['1'], used['2'], oldest['0'], oldest['1'], oldest['2'],
        m.usage, m.resets, m.level, m.turns, m.measured)
      if m.further ~= NOTHING or m.counts_further then
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
  write_state()
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
