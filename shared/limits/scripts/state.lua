-- Put before the scripts of this folder. An account's amounts per minute, in one field of a hash each:
--   1 requests  2 input tokens  3 output tokens  4 tokens
-- A field packs {level, at, slots}: a token bucket (level at time `at`, ms), and what was taken in
-- each slot of time of the last minute. The bucket holds a sixth of a minute's worth, so that calls do
-- not come all at once; the slots hold the limit in every minute, which a bucket alone does not.
local SLOT_MS, SLOTS = 2500, 25

local function now_ms(clock)
  if clock ~= '' then
    return tonumber(clock)
  end
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + tonumber(t[2]) / 1000
end

local function burst_of(limit)
  return math.max(1, limit / 6)
end

-- The state of amount i at `now`: its level, its slots, and the sum of these.
local function read(key, i, limit, now)
  local packed = redis.call('HGET', key, i)
  local level, at, slots = burst_of(limit), now, {}
  if packed then
    local state = cmsgpack.unpack(packed)
    level, at, slots = state[1], state[2], state[3]
  end
  level = math.min(burst_of(limit), level + math.max(0, now - at) * limit / 60000)
  local first, used, kept = math.floor(now / SLOT_MS) - SLOTS + 1, 0, {}
  for _, slot in ipairs(slots) do
    -- Slots of the future too: the clock of the server went back.
    if slot[1] >= first then
      kept[#kept + 1] = slot
      used = used + slot[2]
    end
  end
  return {level = level, slots = kept, used = used}
end

local function write(key, i, state, now)
  redis.call('HSET', key, i, cmsgpack.pack({state.level, now, state.slots}))
end

local function add(state, number, amount)
  for _, slot in ipairs(state.slots) do
    if slot[1] == number then
      slot[2] = math.max(0, slot[2] + amount)
      return
    end
  end
  if amount > 0 then
    state.slots[#state.slots + 1] = {number, amount}
  end
end
