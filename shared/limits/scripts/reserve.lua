-- Count a job against every allowance it falls under, or against none.
-- KEYS: holds of the account (what it stands in is the prefix of all its keys)
-- ARGV: job, ms until its reservation lapses, tokens, micro-dollars,
--       'check', 'replay' (its requests alone) or 'note' (whatever the limits are),
--       the rules, a line an allowance: `allowance<tab>rule,limit,window in ms;...`
--         rule: r<ms> requests and t<ms> tokens in a window, c calls at once, d requests of the day,
--               m requests of the month, s micro-dollars of the month; limit: -1 for one only counted
-- Returns {'ok', number of the rule of requests with the least left, what is left, ms until all is there
--       again, the same of tokens} (numbers are 0 where there is no such rule)
--       | {'held'}                 it was counted before
--       | {'unknown', allowance}   its calendar counts were never read, or Redis lost them
--       | {'refused', number of the rule, used, ms to wait}
local prefix = string.sub(KEYS[1], 1, -6)
local job, tokens, cost, mode = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local now = now_ms()
lapse_due(prefix, now)
if redis.call('HEXISTS', KEYS[1], job) == 1 then
  return {'held'}
end
local lapses = now + tonumber(ARGV[2])
local groups, number, worst = {}, 0, nil

local function judge(one, used, amount, reset, wait)
  one.used, one.amount, one.reset = used, amount, reset
  if mode ~= 'note' and one.limit >= 0 and used + amount > one.limit then
    local ms = wait and wait(used + amount - one.limit) or reset
    if not worst or ms > worst[4] then
      worst = {'refused', one.number, used, math.ceil(ms)}
    end
  end
end

for subject, list in string.gmatch(ARGV[6], '([^\t\n]+)\t([^\n]+)') do
  local group = new_group(prefix, subject)
  for rule, limit, window in string.gmatch(list, '([^,;]+),([^,;]+),([^,;]+)') do
    number = number + 1
    local kind = string.sub(rule, 1, 1)
    if mode ~= 'replay' or kind == 'r' then
      local one = {number = number, rule = rule, kind = kind, limit = tonumber(limit)}
      if kind == 'r' or kind == 't' then
        one.slot_ms = tonumber(window) / SLOTS
        group.longest = math.max(group.longest or 0, tonumber(window))
        one.slot = math.floor(now / one.slot_ms)
        one.at = want(group, rule .. ':n', rule .. ':o', rule .. ':' .. int(one.slot))
      elseif kind == 's' then
        one.at = want(group, 's:id', 's:n', 's:r')
      elseif kind ~= 'c' then
        one.at = want(group, kind .. ':id', kind .. ':n')
      end
      group.is_calendar = group.is_calendar or kind == 'd' or kind == 'm' or kind == 's'
      group.rules[#group.rules + 1] = one
    end
  end
  local epoch_at = want(group, 'epoch')
  read(group)
  group.epoch = group.found[epoch_at + 1]
  if group.is_calendar and not group.epoch then
    return {'unknown', subject}
  end
  for _, one in ipairs(group.rules) do
    if one.slot then
      local n, oldest, here = numbers(group, one.at, 0, one.slot, 0)
      one.is_new, one.here = not group.found[one.at + 2], here
      n, one.oldest = slide(group.key, one.rule, one.slot, n, oldest)
      -- What is larger than all there is takes all there is: it would never run otherwise.
      local amount = one.kind == 'r' and 1 or math.min(tokens, one.limit)
      judge(one, n, amount, (one.slot + SLOTS + 1) * one.slot_ms - now, function(excess)
        return wait_for(group.key, one.rule, one.oldest, one.slot, one.slot_ms, excess, now)
      end)
    elseif one.kind == 'c' then
      local calls = group.key .. ':calls'
      local used = redis.call('ZCARD', calls)
      if used >= one.limit then
        redis.call('ZREMRANGEBYSCORE', calls, '-inf', int(now))
        used = redis.call('ZCARD', calls)
      end
      judge(one, used, 1, 1000)
    else
      local id, n, reserved = numbers(group, one.at, 0, 0, 0)
      reserved = one.kind == 's' and reserved or 0
      one.period = period_of(one.kind, now)
      if id < one.period then
        -- Another period: it begins with what is still reserved.
        n = reserved
      else
        one.period = id
      end
      one.reserved = reserved
      local ends = one.kind == 'd' and (one.period + 1) * 86400000 or month_start_ms(one.period + 1)
      judge(one, n, one.kind == 's' and cost or 1, ends - now)
    end
  end
  groups[#groups + 1] = group
end
if worst then
  return worst
end

local hold, least = {}, {r = {0, 0, 0}, t = {0, 0, 0}}
for _, group in ipairs(groups) do
  local changed, parts = {}, {}
  for _, one in ipairs(group.rules) do
    local place = 0
    if one.slot then
      place = one.slot
      put(changed, one.rule .. ':n', one.used + one.amount)
      put(changed, one.rule .. ':' .. int(one.slot), one.here + one.amount)
      if one.is_new then
        put(changed, one.rule .. ':o', one.oldest)
      end
      local left = math.max(0, one.limit - one.used - one.amount)
      local so_far = least[one.kind]
      if so_far[1] == 0 or left < so_far[2] then
        least[one.kind] = {one.number, left, math.ceil(one.reset)}
      end
    elseif one.kind == 'c' then
      redis.call('ZADD', group.key .. ':calls', int(lapses), job)
      if one.used == 0 then
        redis.call('PEXPIRE', group.key .. ':calls', KEEP_MS)
      end
    else
      put(changed, one.kind .. ':id', one.period)
      put(changed, one.kind .. ':n', one.used + one.amount)
      place = one.period
      if one.kind == 's' then
        put(changed, 's:r', one.reserved + one.amount)
        place = group.epoch
      end
    end
    parts[#parts + 1] = one.rule .. ',' .. int(place) .. ',' .. int(one.amount) .. ',' .. int(one.limit)
  end
  if #changed > 0 then
    write(group, changed)
    -- Windows alone are forgotten with what they hold: there may be as many as there are addresses.
    redis.call('PEXPIRE', group.key, group.epoch and KEEP_MS or math.ceil(2 * group.longest))
  end
  if #parts > 0 then
    hold[#hold + 1] = group.subject .. '\t' .. table.concat(parts, ';')
  end
end
if mode ~= 'replay' and #hold > 0 then
  redis.call('HSET', KEYS[1], job, table.concat(hold, '\n'))
  redis.call('ZADD', prefix .. 'due', int(lapses), job)
  if redis.call('HLEN', KEYS[1]) == 1 then
    redis.call('PEXPIRE', KEYS[1], KEEP_MS)
    redis.call('PEXPIRE', prefix .. 'due', KEEP_MS)
  end
end
local r, t = least.r, least.t
return {'ok', r[1], r[2], r[3], t[1], t[2], t[3]}
