-- One operation on the shared store, as one atomic step. The contract is Store in solver/load/store/base.py.
-- The files of this folder are one script, in the order of their numbers.
--
-- KEYS[1]  prefix of every key; it contains a {hash tag}
-- ARGV[1]  operation
-- ARGV[2]  epoch the caller has joined; a server that has lost memory begins another
-- ARGV[3]  seconds by the caller's clock, empty for the server's own
-- ARGV[4]  name of the replica
-- ARGV[5]  number of peers (0: absent replicas keep no share)
-- ARGV[6]  seconds until a silent replica counts as absent
-- ARGV[7]  earliest and
-- ARGV[8]  latest time it can be, by the caller's monotonic clock; empty when the caller cannot tell. After an
--          answer 'late': the time it was then, and the reading of the server's clock, as 'set' and a number
-- ARGV[9+] arguments of the operation
--
-- Reply: {time, answer}. A script is not rolled back when a call fails, so nothing here relies on a key
-- that somebody may have deleted, and every number is written in full.
--
-- Keys: meta (hash), joined (set), processes (hash: replica -> process and number of its last joining),
--       lifted (hash: stop -> second, while recovering), members (zset), models (zset: by order of arrival), forgotten (zset),
--       expiry (zset: lease -> second), timers (zset: what ends by itself -> second),
--       trash (zset: key to be deleted -> second), m:<model> (hash), s:<model> (hash: stop -> JSON),
--       o:<model> (hash: replica -> active and queued work that it has added from outside, and how often),
--       w:<model>:<meter> (hash: step -> amount), q:<model> (zset: waiting leases),
--       l:<lease> (hash), op:<operation id> (string: its answer)

local call, prefix = redis.call, KEYS[1]
local META, EXPIRY, MODELS = prefix .. 'meta', prefix .. 'expiry', prefix .. 'models'
local TIMERS, TRASH, JOINED = prefix .. 'timers', prefix .. 'trash', prefix .. 'joined'
local FORGOTTEN, MEMBERS = prefix .. 'forgotten', prefix .. 'members'
local PARTS = 60       -- steps a window
local SETTLE_S = 600   -- how long an expired lease can still be settled, and an operation recognised
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
-- alive  the same for leases. A gap longer than any lease that no caller can vouch for may be a step of the
--        clock, and time made up for may have passed before a lease began: neither shortens leases, so that
--        none ends while its holder works.

local wall = tonumber(ARGV[3])
if not wall then
  local time = call('TIME')
  wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local meta = call('HMGET', META, 'epoch', 'wall', 'now', 'lag', 'recovering_until', 'max_gap', 'leases', 'models',
                  'peak', 'peak_now', 'due')
local now, lag, peak, peak_now, late = wall, 0, wall, wall, false
if meta[2] then
  local before, step = num(meta[3], wall), math.max(0, wall - num(meta[2], wall))
  local earliest, latest, set = tonumber(ARGV[7]), tonumber(ARGV[8]), string.match(ARGV[8], '^set(.*)$')
  local max_gap = ARGV[3] ~= '' and LEAP_S or num(meta[6], 0)
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
       'peak_now', exact(peak_now))
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

-- Shares of replicas that have fallen silent are left to them: they may be granting them on their own.
local function granted_here(limit)
  if missing == 0 or limit < 0 then return limit end
  return limit - math.floor(limit / peers) * missing
end
