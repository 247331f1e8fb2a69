-- Count jobs against every allowance they fall under: each job against all of them or against none, in turn.
-- What is counted is read once and written once, however many jobs ask.
-- KEYS: holds of the account (what it stands in is the prefix of all its keys)
-- ARGV: the rules, '1' if reservations may lapse, how many jobs under the rules are over, these jobs (their places
--       among the calls at once are free),
--       then for each job that asks: job, ms until its reservation lapses, tokens, micro-dollars,
--       'check', 'replay' (its requests alone) or 'note' (whatever the limits are),
--       fingerprint of an idempotent request, or ''
-- Returns for each {'ok', number of the rule of requests with the least left, what is left, ms until all is
--       there again, the same of tokens} (numbers are 0 where there is no such rule)
--       | {'held'}                 it was counted before
--       | {'conflict'}             it was, for a request with another fingerprint
--       | {'unknown', allowance}   its calendar counts were never read, or Redis lost them
--       | {'refused', number of the rule, used, ms to wait}
local prefix = string.sub(KEYS[1], 1, -6)
local now = now_ms()
local first = 4 + tonumber(ARGV[3])
local asking = {}
for i = first, #ARGV, 6 do
  asking[#asking + 1] = ARGV[i]
end
if ARGV[2] == '1' then
  lapse_due(prefix, now, 20 * #asking)
end
local held = redis.call('HMGET', KEYS[1], unpack(asking))
local groups, rules_so_far, unknown, any_told = {}, 0, nil, false

local function read_window(group, rules, i, found)
  local one = rules[i]
  for earlier = 1, i - 1 do
    local same = rules[earlier]
    if same.rule == one.rule then
      -- Two limits of one window: what it counted is known already, and has slid already.
      one.n, one.oldest, one.here, one.is_new = same.n, same.oldest, same.here, same.is_new
      return
    end
  end
  local n, oldest, here = found[one.at + 1], found[one.at + 2], found[one.at + 3]
  one.is_new, one.here = not oldest, tonumber(here or 0)
  one.n, one.oldest = slide(group.key, one.rule, one.place, tonumber(n or 0), tonumber(oldest or one.place))
end

local function read_period(group, one, found)
  local kind, id, period = one.kind, tonumber(found[one.at + 1] or 0), period_of(one.kind, now)
  one.n, one.reserved = tonumber(found[one.at + 2] or 0), kind == 's' and tonumber(found[one.at + 3] or 0) or 0
  if id < period then
    -- Another period: it begins with what is still reserved.
    one.n, one.is_new = one.reserved, true
  else
    period = id
  end
  one.period = period
  one.reset = (kind == 'd' and (period + 1) * DAY_MS or month_start_ms(period + 1)) - now
  one.place = kind == 's' and tonumber(group.epoch or 0) or period
end

each_group(ARGV[1], function(subject, rules)
  local group = {key = prefix .. subject, rules = rules, longest = 0, is_calendar = false, is_changed = false,
    epoch = false, calls = false}
  local fields = {}
  for i = 1, #rules do
    local one = rules[i]
    local rule, kind = one.rule, one.kind
    one.number, one.at = rules_so_far + i, #fields
    if kind == 'r' or kind == 't' then
      one.slot_ms = one.window / SLOTS
      one.place = math.floor(now / one.slot_ms)
      one.reset = (one.place + SLOTS + 1) * one.slot_ms - now
      group.longest = math.max(group.longest, one.window)
      fields[one.at + 1], fields[one.at + 2] = rule .. ':n', rule .. ':o'
      fields[one.at + 3] = rule .. ':' .. int(one.place)
    elseif kind == 'c' then
      group.calls = group.key .. ':calls'
      if first > 4 then
        redis.call('ZREM', group.calls, unpack(ARGV, 4, first - 1))
      end
      one.n, one.reset, one.new = redis.call('ZCARD', group.calls), 1000, {}
    else
      group.is_calendar = true
      fields[one.at + 1], fields[one.at + 2] = kind .. ':id', kind .. ':n'
      if kind == 's' then
        fields[one.at + 3] = 's:r'
      end
    end
  end
  rules_so_far = rules_so_far + #rules
  fields[#fields + 1] = 'epoch'
  local found = redis.call('HMGET', group.key, unpack(fields))
  group.epoch = found[#fields]
  if group.is_calendar and not group.epoch then
    unknown = unknown or subject
  end
  local is_told = false
  for i = 1, #rules do
    local one = rules[i]
    if one.slot_ms then
      read_window(group, rules, i, found)
    elseif one.kind ~= 'c' then
      read_period(group, one, found)
    end
    -- The line of a hold, in pieces with the amounts between them. Requests are counted as they are made, whatever
    -- comes of them.
    if one.kind ~= 'r' then
      local before = is_told and ';' or any_told and '\n' .. subject .. '\t' or subject .. '\t'
      is_told, any_told = true, true
      one.told, one.told_limit = before .. one.rule .. ',' .. int(one.place) .. ',', ',' .. int(one.limit)
      one.told_one = one.told .. '1' .. one.told_limit
    end
  end
  groups[#groups + 1] = group
end)

-- When `excess` will have left the window.
local function wait_for(group, one, excess)
  if not one.slots then
    local names = {}
    for slot = one.oldest, one.place do
      names[#names + 1] = one.rule .. ':' .. int(slot)
    end
    one.slots = #names > 0 and redis.call('HMGET', group.key, unpack(names)) or {}
  end
  for slot = one.oldest, one.place do
    local count = slot == one.place and one.here or tonumber(one.slots[slot - one.oldest + 1] or 0)
    excess = excess - count
    if excess <= 0 then
      return (slot + SLOTS + 1) * one.slot_ms - now
    end
  end
  return SLOTS * one.slot_ms
end

-- Of all rules that refuse the job the one that does so for the longest. Of each is noted what it had counted
-- and what the job would add.
local function judge(mode, tokens, cost)
  local number, used, longest
  for g = 1, #groups do
    local group = groups[g]
    for i = 1, #group.rules do
      local one = group.rules[i]
      local kind, limit, amount = one.kind, one.limit, 1
      if mode ~= 'replay' or kind == 'r' then
        if kind == 't' then
          -- What is larger than all there is takes all there is: it would never run otherwise.
          amount = math.min(tokens, limit)
        elseif kind == 's' then
          amount = cost
        elseif kind == 'c' and one.n >= limit and not one.is_clean then
          redis.call('ZREMRANGEBYSCORE', group.calls, '-inf', now)
          one.n, one.is_clean = redis.call('ZCARD', group.calls) + #one.new / 2, true
        end
        one.used, one.amount = one.n, amount
        if limit >= 0 and one.n + amount > limit and mode ~= 'note' then
          local ms = one.slot_ms and wait_for(group, one, one.n + amount - limit) or one.reset
          if not longest or ms > longest then
            number, used, longest = one.number, one.n, ms
          end
        end
      end
    end
  end
  return number, used, longest
end

local function count(job, lapses, mode)
  local hold, r, r_left, r_reset, t, t_left, t_reset = {}, 0, 0, 0, 0, 0, 0
  for g = 1, #groups do
    local group = groups[g]
    for i = 1, #group.rules do
      local one = group.rules[i]
      local kind, amount = one.kind, one.amount
      if mode ~= 'replay' or kind == 'r' then
        one.n, one.is_changed = one.used + amount, true
        if one.slot_ms then
          one.here = one.here + amount
          local left = math.max(0, one.limit - one.n)
          if kind == 't' then
            if t == 0 or left < t_left then
              t, t_left, t_reset = one.number, left, math.ceil(one.reset)
            end
          elseif r == 0 or left < r_left then
            r, r_left, r_reset = one.number, left, math.ceil(one.reset)
          end
        elseif kind == 'c' then
          one.new[#one.new + 1] = lapses
          one.new[#one.new + 1] = job
        elseif kind == 's' then
          one.reserved = one.reserved + amount
        end
        if kind == 't' or kind == 's' then
          hold[#hold + 1] = one.told
          hold[#hold + 1] = int(amount)
          hold[#hold + 1] = one.told_limit
        elseif kind ~= 'r' then
          hold[#hold + 1] = one.told_one
        end
      end
    end
  end
  return {'ok', r, r_left, r_reset, t, t_left, t_reset}, hold
end

local answers, holds, dues, taken = {}, {}, {}, {}

local function take(job, hold)
  taken[job] = hold
  holds[#holds + 1], holds[#holds + 2] = job, hold
end

-- Of a job that holds something: whether the request may have a part in it.
local function share(job, hold, mode, print)
  if print ~= '' and mode ~= 'note' then
    local asked, theirs, at = asked_of(hold)
    if asked and theirs ~= print then
      return {'conflict'}
    end
    if mode == 'check' then
      take(job, asked_as((asked or 1) + 1, print) .. string.sub(hold, at or 1))
    end
  end
  return {'held'}
end

for j = 1, #asking do
  local job, at = asking[j], first + 6 * (j - 1)
  local mode, print = ARGV[at + 4], ARGV[at + 5]
  local before = taken[job] or held[j]
  -- One that lapsed holds nothing: the job is measured again, and whoever ends it settles what it holds then.
  if before and not is_lapsed(before) then
    answers[j] = share(job, before, mode, print)
  elseif unknown and mode ~= 'replay' then
    answers[j] = {'unknown', unknown}
  else
    local number, used, ms = judge(mode, tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
    if number then
      answers[j] = {'refused', number, used, math.ceil(ms)}
    else
      local lapses = now + tonumber(ARGV[at + 1])
      local answer, hold = count(job, lapses, mode)
      answers[j] = answer
      if mode ~= 'replay' and #hold > 0 then
        take(job, (print ~= '' and asked_as(1, print) or '') .. table.concat(hold))
        dues[#dues + 1], dues[#dues + 2] = lapses, job
      end
    end
  end
end

if #holds > 0 then
  redis.call('HSET', KEYS[1], unpack(holds))
  if #dues > 0 then
    redis.call('ZADD', prefix .. 'due', unpack(dues))
  end
  if keep(KEYS[1], KEEP_MS, DAY_MS) then
    redis.call('PEXPIRE', prefix .. 'due', KEEP_MS)
  end
end
for _, group in ipairs(groups) do
  local changed = {}
  for _, one in ipairs(group.rules) do
    if not one.is_changed then
      -- Nothing was counted under it.
    elseif one.slot_ms then
      put(changed, one.rule .. ':n', one.n)
      put(changed, one.rule .. ':' .. int(one.place), one.here)
      if one.is_new then
        put(changed, one.rule .. ':o', one.oldest)
      end
    elseif one.kind == 'c' then
      redis.call('ZADD', group.calls, unpack(one.new))
      keep(group.calls, KEEP_MS, DAY_MS)
    else
      put(changed, one.kind .. ':n', one.n)
      if one.is_new then
        put(changed, one.kind .. ':id', one.period)
      end
      if one.kind == 's' then
        put(changed, 's:r', one.reserved)
      end
    end
  end
  if #changed > 0 then
    write(group, changed)
    -- Windows alone are forgotten with what they hold: there may be as many as there are addresses.
    local ms, slack = math.ceil(2 * group.longest), group.longest / 2
    if group.epoch and ms < KEEP_MS then
      ms, slack = KEEP_MS, DAY_MS
    end
    keep(group.key, ms, slack)
  end
end
return answers
