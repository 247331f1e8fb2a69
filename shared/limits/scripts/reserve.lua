-- Count a job against every allowance it falls under, or against none.
-- KEYS: holds of the account (what it stands in is the prefix of all its keys)
-- ARGV: job, ms until its reservation lapses, tokens, micro-dollars,
--       'check', 'replay' (its requests alone) or 'note' (whatever the limits are),
--       then for each rule: allowance, rule, limit (-1: only counted), window in ms
--         rule: r<ms> requests and t<ms> tokens in a window, c calls at once, d requests of the day,
--               m requests of the month, s micro-dollars of the month
-- Returns {'ok', remaining, ms until it is all there again, ... of each rule}
--       | {'unknown', allowance}    its calendar counts were never read, or Redis lost them
--       | {'refused', number of the rule, used, ms to wait}
local prefix = string.sub(KEYS[1], 1, -6)
local job, tokens, cost, mode = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = now_ms()
lapse_due(prefix, now)
if redis.call('HEXISTS', KEYS[1], job) == 1 then
  return {'ok'}
end
local rules, worst = {}, nil
for i = 6, #ARGV, 4 do
  local allowance, rule, limit, window = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local kind = string.sub(rule, 1, 1)
  local key = prefix .. allowance
  local one = {key = key, allowance = allowance, rule = rule, kind = kind, limit = limit}
  if mode ~= 'replay' or kind == 'r' then
    if kind == 'r' or kind == 't' then
      one.slot_ms = window / SLOTS
      one.slot = math.floor(now / one.slot_ms)
      one.used, one.oldest = slide(key, rule, one.slot)
      -- What is larger than all there is takes all there is: it would never run otherwise.
      one.amount = kind == 'r' and 1 or math.min(tokens, limit)
      one.reset = (one.slot + SLOTS + 1) * one.slot_ms - now
    elseif kind == 'c' then
      redis.call('ZREMRANGEBYSCORE', key .. ':calls', '-inf', int(now))
      one.used, one.amount, one.reset = redis.call('ZCARD', key .. ':calls'), 1, 1000
    else
      local epoch = redis.call('HGET', key, 'epoch')
      if not epoch then
        return {'unknown', allowance}
      end
      one.epoch = epoch
      one.period = period_of(kind, now)
      one.used, one.period = current(key, kind, one.period)
      one.amount = kind == 's' and cost or 1
      one.reset = (kind == 'd' and (one.period + 1) * 86400000 or month_start_ms(one.period + 1)) - now
    end
    if mode ~= 'note' and limit >= 0 and one.used + one.amount > limit then
      local wait = one.reset
      if one.slot then
        wait = wait_for(key, rule, one.oldest, one.slot, one.slot_ms, one.used + one.amount - limit, now)
      end
      if not worst or wait > worst[4] then
        worst = {'refused', (i - 2) / 4, one.used, math.ceil(wait)}
      end
    end
    rules[#rules + 1] = one
  end
end
if worst then
  return worst
end
local answer, hold = {'ok'}, {}
for _, one in ipairs(rules) do
  local place = one.slot or one.epoch or '0'
  if one.slot then
    add_to_slot(one.key, one.rule, one.slot, one.amount)
  elseif one.kind == 'c' then
    redis.call('ZADD', one.key .. ':calls', int(now + tonumber(ARGV[2])), job)
    redis.call('PEXPIRE', one.key .. ':calls', KEEP_MS)
  else
    redis.call('HINCRBY', one.key, one.kind .. ':n', int(one.amount))
    if one.kind == 's' then
      redis.call('HINCRBY', one.key, 's:r', int(one.amount))
    else
      place = one.period
    end
  end
  if one.kind ~= 'c' then
    redis.call('PEXPIRE', one.key, KEEP_MS)
  end
  if mode ~= 'replay' then
    hold[#hold + 1] = table.concat({one.allowance, one.rule, int(place), int(one.amount), int(one.limit)}, '|')
  end
  answer[#answer + 1] = one.limit < 0 and -1 or math.max(0, one.limit - one.used - one.amount)
  answer[#answer + 1] = math.ceil(one.reset)
end
if #hold > 0 then
  redis.call('HSET', KEYS[1], job, table.concat(hold, '\n'))
  redis.call('ZADD', prefix .. 'due', int(now + tonumber(ARGV[2])), job)
  redis.call('PEXPIRE', KEYS[1], KEEP_MS)
  redis.call('PEXPIRE', prefix .. 'due', KEEP_MS)
end
return answer
