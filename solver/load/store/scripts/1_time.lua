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
-- Keys: meta (hash), joined (set), processes (hash: replica -> process and number of its last joining),
--       lifted (hash: stop -> second, while recovering), members (zset), models (zset: by order of arrival), forgotten (zset),
--       expiry (zset: lease -> second), timers (zset: what ends by itself -> second),
--       trash (zset: key to be deleted -> second), recent (zset: attempt at an operation -> second when it is forgotten), m:<model> (hash), s:<model> (hash: stop -> JSON),
--       o:<model> (hash: replica -> active and queued work that it has added from outside, and how often),
--       w:<model>:<meter> (hash: step -> amount), q:<model> (zset: waiting leases),
--       l:<lease> (hash), op:<operation id> (string: its answer)

local call, prefix = redis.call, KEYS[1]
local META, EXPIRY, MODELS = prefix .. 'meta', prefix .. 'expiry', prefix .. 'models'
local TIMERS, TRASH, JOINED = prefix .. 'timers', prefix .. 'trash', prefix .. 'joined'
local RECENT = prefix .. 'recent'
local FORGOTTEN, MEMBERS = prefix .. 'forgotten', prefix .. 'members'
local PARTS = 60       -- steps a window
local SETTLE_S = 600   -- how long an expired lease can still be settled, and an operation recognised
local RECENT_S = 10    -- how long an attempt is remembered beyond the time at which it would be late anyway
local LEAP_S = 3000    -- a clock of the caller's (in tests) that moves on by more at once was set
local AT_ONCE = 1000   -- leases that one operation ends at most: about ten milliseconds
local REASONS = {[0] = 'requests', 'tokens', 'budget'}
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

local meta = call('HMGET', META, 'epoch', 'wall', 'now', 'lag', 'recovering_until', 'max_gap', 'leases', 'models',
                  'peak', 'peak_now', 'due', 'doubt', 'doubt_until')
local now, lag, peak, peak_now, late = wall, 0, wall, wall, false
local doubt, doubt_until = 0, 0
if meta[2] then
  local before, step = num(meta[3], wall), math.max(0, wall - num(meta[2], wall))
  local earliest, latest, set = tonumber(ARGV[7]), tonumber(ARGV[8]), string.match(ARGV[8], '^set(.*)$')
  local max_gap = by_caller and LEAP_S or num(meta[6], 0)
  doubt, doubt_until = num(meta[12], 0), num(meta[13], 0)
  now, lag, peak, peak_now = before + step, num(meta[4], 0), num(meta[9], wall), num(meta[10], now)
  if meta[1] ~= ARGV[2] then earliest, set = nil, nil end -- another epoch may have another time
  local vouched = set and earliest + math.max(0, wall - tonumber(set))
  if vouched and vouched >= before then -- else others have seen more of the time than the caller
    now = vouched
  elseif earliest and not set then
    late = now > latest
    if earliest > now and wall >= num(meta[2], wall) then -- time that was lost before: leases may be younger
      lag = lag + earliest - now
    end
    now = math.max(now, earliest)
  elseif num(meta[2], wall) < peak and wall >= peak and wall - peak <= max_gap then -- set back, and now right
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
local alive = now - lag
local recovering = alive < num(meta[5], 0)

-- What ends by itself at some second: nobody looks for it before.
local due = num(meta[11], math.huge)
local function expect(set, second, member)
  call('ZADD', set, second, member)
  local at = tonumber(second) + (set == TRASH and lag or 0)
  if at < due then
    due = at
    call('HSET', META, 'due', exact(due))
  end
end

local function note_time()
  call('HSET', META, 'wall', exact(wall), 'now', exact(now), 'lag', exact(lag), 'peak', exact(peak),
       'peak_now', exact(peak_now), 'doubt', exact(doubt), 'doubt_until', exact(doubt_until))
end

local function model_key(model) return prefix .. 'm:' .. model end
local function outside_key(model) return prefix .. 'o:' .. model end
local function stops_key(model) return prefix .. 's:' .. model end
local function lease_key(id) return prefix .. 'l:' .. id end
local function queue_key(model) return prefix .. 'q:' .. model end
local function window_key(model, kind) return prefix .. 'w:' .. model .. ':' .. kind end

local function touch(model)
  call('HSET', model_key(model), 'heard', exact(now))
  call('HINCRBY', META, 'version', 1)
end

local function empty_trash()
  local keys = call('ZRANGEBYSCORE', TRASH, '-inf', exact(alive), 'LIMIT', 0, 200)
  for _, key in ipairs(keys) do
    call('DEL', prefix .. key)
    call('ZREM', TRASH, key)
  end
end

-- Whether this message is a copy of one that was carried out, or is followed by a later attempt.
local function is_copy()
  local id, attempt = ARGV[9], tonumber(ARGV[10])
  if id == '' then return false end
  local forgotten = exact((tonumber(ARGV[8]) or now) + RECENT_S)
  if due > now + RECENT_S then
    due = now + RECENT_S
    call('HSET', META, 'due', exact(due))
  end
  local is_new = call('ZADD', RECENT, forgotten, id) == 1
  if attempt == 1 then return not is_new end
  return call('ZADD', RECENT, forgotten, id .. '#' .. ARGV[10]) == 0
end

-- Shares of replicas that have fallen silent are left to them: they may be granting them on their own.
local function granted_here(limit)
  if missing == 0 or limit < 0 then return limit end
  return limit - math.floor(limit / peers) * missing
end
