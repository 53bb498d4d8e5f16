-- Meters: what was used in sliding windows, and in the periods of calendars ------------------------------
--
-- A meter is {key, kind, window, limit, calendar, length}: kinds are 0 requests, 1 tokens, 2 money. A window of
-- 0 seconds never leaves. Of a calendar, 'oldest' is the end of the current period.

return (function()
local LENGTHS = {day = 86400, week = 7 * 86400, month = 30.5 * 86400} -- about, in seconds
local NO_CREDIT = {amount = 0}
local REASONS = {[0] = 'requests', 'tokens', 'budget'}

local function primary(m, kind)
  if kind == 2 then return {'2', 2, m.period, m.limit2} end
  return {int(kind), kind, 60, kind == 0 and m.limit0 or m.limit1}
end

-- The meters of a subject that have a limit.
local function meters_of(m)
  if m.meters then return m.meters end
  local meters = {}
  if m.limit0 >= 0 then meters[1] = {'0', 0, 60, m.limit0} end
  if m.limit1 >= 0 then meters[#meters + 1] = {'1', 1, 60, m.limit1} end
  if m.limit2 >= 0 then meters[#meters + 1] = {'2', 2, m.period, m.limit2} end
  for _, entry in ipairs(m.further) do
    meters[#meters + 1] = {entry.key, entry.kind, entry.window, entry.limit, entry.calendar, entry.length}
    if not m.used[entry.key] then m.used[entry.key], m.oldest[entry.key] = 0, -1 end
  end
  m.meters = meters
  return meters
end

local function meter_named(m, key)
  for _, meter in ipairs(meters_of(m)) do
    if meter[1] == key then return meter end
  end
  if #key == 1 then return primary(m, tonumber(key)) end
  local kind, over = string.match(key, '^(%d)@(.+)$') -- no limit at present, and still counted
  if kind and m.used[key] then
    return {key, tonumber(kind), tonumber(over) or 1, -1, not tonumber(over) and over or nil, LENGTHS[string.match(over, '^%a*')]}
  end
end

-- Ends that only a client whose clock is far ahead has reported are not those of this period: it ends a length from now.
local function period_end(meter)
  local ends = call('ZRANGEBYSCORE', prefix .. 'c:' .. meter[5], '(' .. exact(wall), '+inf', 'LIMIT', 0, 1)
  local first = tonumber(ends[1])
  return first and first <= wall + 1.1 * meter[6] and first or wall + meter[6]
end

-- The step in which a meter counts what is charged now: of a window, or the end of a calendar's period.
local function step_of(m, meter)
  if meter[5] then return m.oldest[meter[1]] end
  return meter[3] > 0 and math.floor(metered / (meter[3] / PARTS)) or 0
end

-- Add to what a meter holds, and return the step in which that is counted.
local function add_usage(m, meter, amount)
  local key, step = meter[1], step_of(m, meter)
  if amount == 0 then return 0 end
  m.used[key], m.changed = m.used[key] + amount, true
  if meter[5] or meter[3] == 0 then return step end
  call('HINCRBY', window_key(m.subject, key), int(step), int(amount))
  if m.oldest[key] < 0 then m.oldest[key] = step end
  return step
end

-- Figures that replicas remember from before a loss of memory are compared by their changes, and include none made since.
local function record_change(m, meter, amount)
  if recovering then call('HINCRBY', SINCE_LOSS, m.subject .. ' ' .. meter[1], int(amount)) else m.usage = m.usage + 1 end
end

local function charge(m, meter, amount)
  if amount ~= 0 then record_change(m, meter, amount) end
  return add_usage(m, meter, amount)
end

-- Forget what has left a meter, and return what it still holds.
local function advance(m, meter)
  local key, window = meter[1], meter[3]
  local used, oldest = m.used[key], m.oldest[key]
  if meter[5] then
    if wall >= oldest then
      m.used[key], m.oldest[key], m.changed = 0, period_end(meter), true
    elseif wall < oldest - 2 * meter[6] then -- the clock had been wrong: what was used stays so until its period ends
      m.oldest[key], m.changed = period_end(meter), true
    end
    return m.used[key]
  end
  if window == 0 or oldest < 0 then return used end
  local step_s = window / PARTS
  local function left(step) return (step + 1) * step_s + window <= metered end
  if not left(oldest) then return used end
  local steps, first, left_over, lost = call('HGETALL', window_key(m.subject, key)), nil, 0, used
  m.changed = true
  for k = 1, #steps, 2 do
    local step, amount = num(steps[k], 0), num(steps[k + 1], 0)
    lost = lost - amount
    if left(step) then
      call('HDEL', window_key(m.subject, key), steps[k])
    else
      left_over = left_over + amount
      if not first or step < first then first = step end
    end
  end
  m.used[key], m.oldest[key] = left_over, first or -1
  if lost > 0 then add_usage(m, meter, lost) end -- the window's key was deleted: count what it held from now on
  return m.used[key]
end

-- How much of a charge is still counted.
local function counted(m, meter, amount, step)
  local key = meter[1]
  amount = math.min(amount, m.used[key] or 0)
  if meter[5] then return step == m.oldest[key] and amount or 0 end
  if meter[3] == 0 then return step == 0 and amount or 0 end -- else it was charged to a window
  return amount > 0 and math.min(amount, num(call('HGET', window_key(m.subject, key), int(step)), 0)) or 0
end

local function refund(m, meter, amount, step)
  local key = meter[1]
  amount = counted(m, meter, amount, step)
  if amount <= 0 then return end -- it has left the window
  if not meter[5] and meter[3] ~= 0 then call('HINCRBY', window_key(m.subject, key), int(step), int(-amount)) end
  m.used[key], m.changed = m.used[key] - amount, true
  record_change(m, meter, -amount)
end

-- Seconds until so much has left a meter; what a lease gives back does not count in the step that it is charged to.
local function wait_s(m, meter, over, given)
  if meter[5] then return exact(math.max(0, m.oldest[meter[1]] - wall)) end
  if meter[3] == 0 then return '' end
  local steps, order = call('HGETALL', window_key(m.subject, meter[1])), {}
  for k = 1, #steps, 2 do
    local step, amount = num(steps[k], 0), num(steps[k + 1], 0)
    order[#order + 1] = {step, step == given.step and amount - given.amount or amount}
  end
  table.sort(order, function(a, b) return a[1] < b[1] end)
  for _, entry in ipairs(order) do
    over = over - entry[2]
    if over <= 0 then return exact((entry[1] + 1) * (meter[3] / PARTS) + meter[3] - metered) end
  end
  return ''
end

-- Why amounts do not fit a subject: of its limits on the first resource that is over, the one that lasts longest.
local function refusal_of(m, amounts, credit)
  local answer, longest
  for _, meter in ipairs(meters_of(m)) do
    local kind, limit = meter[2], granted_here(meter[4])
    local given = credit and credit[m.subject .. ' ' .. meter[1]] or NO_CREDIT
    local used = advance(m, meter) - given.amount
    local over = used + amounts[kind] - limit
    if over > 0 then
      local reason = amounts[kind] > meter[4] and 'too_large' or REASONS[kind]
      if not answer or answer[1] == reason then
        local wait = reason == 'too_large' and '' or wait_s(m, meter, over, given)
        local lasts = tonumber(wait) or math.huge
        if not answer or lasts > longest then answer, longest = {reason, wait, '', m.subject}, lasts end
      end
    end
  end
  return answer
end

-- Charge a subject with what it limits; charges are {subject, meter, amount, step, resets before} in a row.
local CHARGE = 5

local function charge_all(m, amounts, charges)
  for _, meter in ipairs(meters_of(m)) do
    local n = #charges
    charges[n + 1], charges[n + 2], charges[n + 3] = m.subject, meter[1], amounts[meter[2]]
    charges[n + 4], charges[n + 5] = charge(m, meter, amounts[meter[2]]), m.resets
  end
end

-- What was used of a subject: name, changes, resets, number of meters, and meter and amount of each, of a calendar with
-- the end of its period. More changes are newer figures.
local function append_usage(m, into)
  local n, count = #into, 0
  into[n + 1], into[n + 2], into[n + 3], into[n + 4] = m.subject, int(m.usage), int(m.resets), ''
  for _, meter in ipairs(meters_of(m)) do
    local amount = int(m.used[meter[1]])
    into[#into + 1], into[#into + 2] = meter[1], meter[5] and amount .. '/' .. exact(m.oldest[meter[1]]) or amount
    count = count + 1
  end
  into[n + 4] = int(count)
end

-- The subject and the meter of the charge at some place, unless usage was counted from nothing again since.
local function charged(charges, k)
  local m = load(charges[k])
  if m and m.resets == charges[k + 4] then return m, meter_named(m, charges[k + 1]) end
end
