-- Take a permit of an account. The same holder asking again is granted what it has.
-- KEYS: amounts (hash), holders (zset by expiry, ms), those of them that do batch work (zset)
-- ARGV: holder, '1' for batch work, ms until the holder is forgotten, share that batch work leaves free,
--       most holders at once (0: no limit), test clock in ms or '',
--       then limit per minute (0: none) and amount wanted, four times
-- Returns {1, slot of time it counts in} or {0, ms to wait}
local amounts, holders, batch_holders = KEYS[1], KEYS[2], KEYS[3]
local holder, is_batch, keep_ms = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3])
local free = is_batch and tonumber(ARGV[4]) or 0
local most, now = tonumber(ARGV[5]), now_ms(ARGV[6])
local number = math.floor(now / SLOT_MS)
local BUSY_MS = 250

redis.call('ZREMRANGEBYSCORE', holders, '-inf', now)
redis.call('ZREMRANGEBYSCORE', batch_holders, '-inf', now)
if redis.call('ZSCORE', holders, holder) then
  return {1, number}
end

local wait = 0
if most > 0 then
  local held = redis.call('ZCARD', holders)
  if is_batch then
    local in_all, for_batch = math.max(1, math.floor(most * (1 - free))), math.max(1, math.floor(most / 2))
    if held >= in_all or redis.call('ZCARD', batch_holders) >= for_batch then
      wait = BUSY_MS
    end
  elseif held >= most then
    wait = BUSY_MS
  end
end

local states = {}
for i = 1, 4 do
  local limit, amount = tonumber(ARGV[5 + 2 * i]), tonumber(ARGV[6 + 2 * i])
  if limit > 0 and amount > 0 then
    local state, burst = read(amounts, i, limit, now), burst_of(limit)
    -- What is larger than all there is takes all there is: it would never run otherwise.
    local wanted = math.min(amount, limit)
    local level_needed = math.min(wanted, burst * (1 - free)) + burst * free
    -- Shares of a limit are no round numbers.
    if state.level < level_needed - 1e-9 * limit then
      wait = math.max(wait, (level_needed - state.level) * 60000 / limit)
    end
    local excess = state.used + math.min(wanted, limit * (1 - free)) - limit * (1 - free)
    if excess > 1e-9 * limit then
      table.sort(state.slots, function(a, b) return a[1] < b[1] end)
      for _, slot in ipairs(state.slots) do
        excess = excess - slot[2]
        if excess <= 0 then
          wait = math.max(wait, (slot[1] + SLOTS) * SLOT_MS - now)
          break
        end
      end
    end
    state.level = state.level - wanted
    add(state, number, wanted)
    states[i] = state
  end
end
if wait > 0 then
  return {0, math.ceil(wait)}
end

for i, state in pairs(states) do
  write(amounts, i, state, now)
end
redis.call('PEXPIRE', amounts, 2 * SLOT_MS * SLOTS)
redis.call('ZADD', holders, now + keep_ms, holder)
redis.call('PEXPIRE', holders, 2 * keep_ms)
if is_batch then
  redis.call('ZADD', batch_holders, now + keep_ms, holder)
  redis.call('PEXPIRE', batch_holders, 2 * keep_ms)
end
return {1, number}
