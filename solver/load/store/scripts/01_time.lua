-- One operation on the shared store, as one atomic step. The contract is Store in solver/load/store/base.py.
-- The files of this folder are one script, in the order of their numbers. From 03 on they are the body of one
-- function, and from 04 on that of another within it, both of which end in 10: to make a function, Lua searches for
-- each local of the function around it among all that are in use, but finds those further outside at once. It refuses
-- more than 60 of the latter, and more than 200 locals.
--
-- KEYS[1]  prefix of every key; it contains a {hash tag}
-- ARGV[1]  operation
-- ARGV[2]  epoch the caller has joined; a server that has lost memory begins another
-- ARGV[3]  seconds by the caller's clock, empty for the server's own; after a T: what stands for the server's
-- ARGV[4]  name of the replica
-- ARGV[5]  number of peers (0: absent replicas keep no share)
-- ARGV[6]  seconds until a silent replica counts as absent
-- ARGV[7]  earliest time it can be, and, when they are not zero, how much of the time was not metered when the caller
--          last heard of it, and how much others may know that it did not hear of then
-- ARGV[8]  latest metered time it can be, as far as the caller knows. Both are by its monotonic clock, and empty when it
--          does not know. After an answer 'late': the time it was then, and 'set', the reading of the server's clock at
--          that time, and how many seconds can have passed since
-- ARGV[9]  id of the operation, empty where a copy that comes later does no harm
-- ARGV[10] how often it has been sent: a copy of an attempt that was carried out, or followed by a later one,
--          is not carried out
-- ARGV[11+] arguments of the operation
--
-- Reply: {time, answer}. The time is followed, after a space, by how much of it is not metered, unless that is nothing.
-- A script is not rolled back when a call fails, so nothing here relies on a key that another client may have deleted,
-- and every number is written in full.
--
-- A subject is a model, m:<model>, or a pool of limits that several models share, p:<pool>. What is read of it
-- and of the store's own state is kept in tables, and written back once, at the end.
--
-- Keys: meta (hash: epoch, epoch_before where a lost key has ended it, state, recovered, run_id, promotion, schema), joined (set),
--       processes (hash: replica -> process, number and epoch of its last joining),
--       lifted (hash: model and stop, owner of stops, or 'leases' -> second in which they were lifted or ended, while recovering),
--       members (zset), forgotten (zset),
--       restored (hash: subject and epoch -> changes of its usage that the server had, or a replica has reported; '' -> the
--       epoch before the loss of memory; until every replica has joined),
--       since_loss (hash: subject and meter -> what was charged since the loss of memory, while recovering),
--       models, pools (zset: by order of arrival), expiry (zset: lease -> second),
--       timers (zset: what ends by itself -> second), deletions (zset: key to be deleted -> second),
--       recent (zset: attempt at an operation -> metered second when it is forgotten), c:<calendar> (zset: ends of its periods),
--       <subject> (hash: state, limits, further, pools, rules, meters, and when these were set), s:<model> (hash: stop -> JSON),
--       o:<model> (hash: replica -> active and queued work that it has added from outside, and how often),
--       w:<subject>:<meter> (hash: step -> amount), q:<model> (zset: waiting leases), v:<model> (hash: tenant ->
--       work served over weight, and its latest turn), h:<model> (zset: slots leased -> second, while it is measured),
--       l:<lease> (string), op:<operation id> (string: its answer), x:<topic> (hash: replica -> second and its text)

local call, prefix = redis.call, KEYS[1]
local META, EXPIRY, RECENT = prefix .. 'meta', prefix .. 'expiry', prefix .. 'recent'
local PARTS = 60       -- steps a window
local RECENT_S = 10    -- how long an attempt is remembered beyond the time at which it would be late anyway
local LEAP_S = 3000    -- a clock of the caller's (in tests) that moves on by more at once was set
local op, replica = ARGV[1], ARGV[4]
local peers, absent_s = tonumber(ARGV[5]), tonumber(ARGV[6])

local function num(text, default) return tonumber(text or default) or default end
local function exact(number) return string.format('%.17g', number) end
local function int(number) -- neither an exponent nor a negative zero, which commands refuse
  local text = string.format('%.0f', number)
  return text == '-0' and '0' or text
end

-- Time ------------------------------------------------------------------------------------------------
--
-- now    seconds that have passed. The server's clock may be set while it runs: steps back are left out, until a caller
--        that knows better tells. More time than the caller says there can be means that the message is late, or that the
--        clock was set forward: nothing is done, and a caller that still waits for the answer sends it again.
-- alive  seconds that have passed, for leases, which may have begun since the last message that moved time on. The
--        server's clock tells what has passed since then, unless it was set. What a caller knows beyond that may have passed
--        before, and is not counted, so that no lease ends while its holder works. Neither is elapsed time that no client's
--        clock confirms (the gap before the first message of a process, say), since it may be a step; of it, at most the
--        longest time to live in as long a time is left out, so that leases also end where every process is new.
-- metered  the same for what was used in sliding windows, but elapsed time that nobody confirms is counted.
--
-- A caller that has heard less of the time than others says so: after a step forward it tells what time it was, and what has
-- passed for it may be less than for others. What they tell next is added to the latest time that its next message names.

local wall = tonumber(ARGV[3])
local by_caller = wall ~= nil
if not wall then wall = tonumber(string.match(ARGV[3], '^T(.+)$')) end
if not wall then
  local time = call('TIME')
  wall = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local STATE = 'ddddddddddddddd'
local meta = call('HMGET', META, 'epoch', 'state', 'recovered')
local has_state = meta[2] ~= false
local now, lag, peak, peak_now, late = wall, 0, wall, wall, false
local unconfirmed, unconfirmed_until = 0, 0                      -- elapsed time not counted since no client confirmed it, and its end
local leases, listed, version, ticket = 0, 0, 0, 0   -- how many leases, models and pools there are; numbers that only grow
local due, due_alive = math.huge, math.huge          -- before that, nothing ends by itself, and no lease
local recovering_until, longest_s = 0, 0
local recovered, recovered_before = num(meta[3], 0), num(meta[3], 0)
if has_state then
  local before_wall, before
  before_wall, before, lag, peak, peak_now, unconfirmed, unconfirmed_until, leases, listed, version, ticket, due, due_alive,
    recovering_until, longest_s = struct.unpack(STATE, meta[2])
  local step = math.max(0, wall - before_wall)
  local earliest, latest, not_metered, unheard = tonumber(ARGV[7]), tonumber(ARGV[8]), 0, 0
  if not earliest then
    local first, second, third = string.match(ARGV[7], '^(%S+) (%S+) (%S+)$')
    earliest, not_metered, unheard = tonumber(first), num(second, 0), num(third, 0)
  end
  local set, at_most = string.match(ARGV[8], '^set(%S+) (%S+)$')
  if meta[1] ~= ARGV[2] then earliest, set = nil, nil end -- another epoch may have another time
  now = before + step
  if set then -- others may have seen more of the time than the caller, or less
    local since = wall - tonumber(set)
    late, now = since < 0 or since > tonumber(at_most), math.max(before, earliest + since)
    local known = math.max(0, now - before - math.min(step, since))
    lag, recovered = lag + known, recovered + known
  elseif earliest then
    local excess = now - latest - not_metered
    late = excess > math.min(unheard, recovered - not_metered)
    local known = math.max(0, earliest - now) -- the clock was set back, now or before
    local doubtful = excess > 0 and math.min(step, now - earliest) or 0 -- others have told it since, or it is set forward
    lag, recovered, now = lag + known + doubtful, recovered + known + doubtful, math.max(now, earliest)
  else
    local max_gap = by_caller and LEAP_S or longest_s
    if before_wall < peak and wall >= peak and wall - peak <= max_gap then -- set back, and now right
      now = math.max(before, peak_now + wall - peak)
    end
    local elapsed = now - before
    if elapsed > max_gap then
      lag = lag + elapsed
    elseif not by_caller then -- no client's clock confirms it
      if before - lag >= unconfirmed_until then unconfirmed, unconfirmed_until = 0, before - lag + max_gap end
      local uncounted = math.max(0, math.min(elapsed, max_gap - unconfirmed))
      unconfirmed, lag = unconfirmed + uncounted, lag + uncounted
    end
  end
  if wall > peak then peak, peak_now = wall, now end
end
if not has_state then late = wall > (tonumber(ARGV[8]) or math.huge) end -- it was sent to a server that has lost its memory since
local alive, metered = now - lag, now - recovered
local time_text = recovered > 0 and exact(now) .. ' ' .. exact(recovered) or exact(now)
local recovering = alive < recovering_until

local SUBJECT = 'dddddddddddddddddddddd'
local LIMITS = 'dddddd'

local function write_state()
  call('HSET', META, 'state', struct.pack(STATE, wall, now, lag, peak, peak_now, unconfirmed, unconfirmed_until, leases, listed, version,
    ticket, due, due_alive, recovering_until, longest_s))
  if recovered ~= recovered_before then call('HSET', META, 'recovered', exact(recovered)) end
end
