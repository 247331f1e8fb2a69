-- A call has ended: its place is free, and it counts with the tokens it really took. Once a holder.
-- KEYS: amounts, holders, holders of batch work, as for `take`
-- ARGV: holder, slot of time that `take` told, test clock in ms or '',
--       then limit per minute (0: none), amount taken, and amount it should have been, four times
-- Returns 1, or 0 when the holder was forgotten already
local amounts, holder, number = KEYS[1], ARGV[1], tonumber(ARGV[2])
redis.call('ZREM', KEYS[3], holder)
if redis.call('ZREM', KEYS[2], holder) == 0 then
  return 0
end
local now = now_ms(ARGV[3])
for i = 1, 4 do
  local limit, taken, really = tonumber(ARGV[1 + 3 * i]), tonumber(ARGV[2 + 3 * i]), tonumber(ARGV[3 + 3 * i])
  if limit > 0 and taken > 0 then
    -- As `take` did, which takes no more than the limit.
    local more = really - math.min(taken, limit)
    if more ~= 0 then
      local state = read(amounts, i, limit, now)
      state.level = math.min(burst_of(limit), state.level - more)
      -- What it took beyond the estimate is taken now, what it left was never taken.
      add(state, more > 0 and math.floor(now / SLOT_MS) or number, more)
      write(amounts, i, state, now)
    end
  end
end
redis.call('PEXPIRE', amounts, 2 * SLOT_MS * SLOTS)
return 1
