-- Meters: what was used in sliding windows -------------------------------------------------------------

local function window_of(kind, period) if kind < 2 then return 60 end return period end -- 0: never leaves

local function charge(model, kind, amount, window)
  if amount == 0 then return 0 end
  local key = model_key(model)
  call('HINCRBY', key, 'used' .. kind, int(amount))
  call('HINCRBY', key, 'usage', 1)
  if window == 0 then return 0 end
  local step = math.floor(now / (window / PARTS))
  call('HINCRBY', window_key(model, kind), int(step), int(amount))
  call('HSETNX', key, 'oldest' .. kind, int(step))
  return step
end

local function advance_meter(model, kind, window)
  local key = model_key(model)
  local state = call('HMGET', key, 'used' .. kind, 'oldest' .. kind)
  local used, step_s = num(state[1], 0), window / PARTS
  if window == 0 then return used end
  local function left(step) return (step + 1) * step_s + window <= now end
  if not state[2] or not left(num(state[2], 0)) then return used end
  local steps, oldest, left_over = call('HGETALL', window_key(model, kind)), nil, 0
  if #steps == 0 and used > 0 then -- somebody has deleted it: count what was used from now on
    call('HDEL', key, 'used' .. kind, 'oldest' .. kind)
    charge(model, kind, used, window)
    return used
  end
  for k = 1, #steps, 2 do
    local step = num(steps[k], 0)
    if left(step) then
      call('HDEL', window_key(model, kind), steps[k])
    else
      left_over = left_over + num(steps[k + 1], 0)
      if not oldest or step < oldest then oldest = step end
    end
  end
  call('HSET', key, 'used' .. kind, int(left_over))
  if oldest then call('HSET', key, 'oldest' .. kind, int(oldest)) else call('HDEL', key, 'oldest' .. kind) end
  return left_over
end

local function refund(model, kind, amount, step, window)
  local key = model_key(model)
  amount = math.min(amount, num(call('HGET', key, 'used' .. kind), 0))
  if window ~= 0 then amount = math.min(amount, num(call('HGET', window_key(model, kind), step), 0)) end
  if amount <= 0 then return end -- it has left the window
  if window ~= 0 then call('HINCRBY', window_key(model, kind), step, int(-amount)) end
  call('HINCRBY', key, 'used' .. kind, int(-amount))
  call('HINCRBY', key, 'usage', 1)
end

local function wait_s(model, kind, over, window)
  if window == 0 then return '' end
  local steps, order = call('HGETALL', window_key(model, kind)), {}
  for k = 1, #steps, 2 do order[#order + 1] = {num(steps[k], 0), num(steps[k + 1], 0)} end
  table.sort(order, function(a, b) return a[1] < b[1] end)
  for _, entry in ipairs(order) do
    over = over - entry[2]
    if over <= 0 then return exact((entry[1] + 1) * (window / PARTS) + window - now) end
  end
  return ''
end

-- What was used, and the number of its changes, which tells newer figures from older ones.
local function used_of(model)
  local used = call('HMGET', model_key(model), 'used0', 'used1', 'used2', 'usage')
  return used[1] or '0', used[2] or '0', used[3] or '0', used[4] or '0'
end
