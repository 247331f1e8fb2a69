-- Put before the scripts that count what callers use. All keys of an account share a slot:
--   <prefix>holds         hash: job to what was reserved for it, a line a count
--   <prefix>due           zset: the same jobs by the moment their reservation lapses, ms
--   <prefix><allowance>   hash: the counts of one allowance, by rule:
--     <rule>:n, :o, :<slot>   a sliding window: in all, its oldest slot, and of each slot
--     d:id, d:n               a calendar period, which one, and how much of it: d and m count requests
--     s:id, s:n, s:r          micro-dollars of the month, reserved ones included, and these alone
--     epoch                   when its calendar counts were read from the ledger; without it they are not known
--   <prefix>passed        hash: of an allowance and its calendar rule, once half of the limit was passed: period,
--                         how much of it, limit; as the last settlement left it
--   <prefix><allowance>:calls   zset: calls under way, by the moment they lapse
-- A reservation is a line an allowance: `allowance<tab>rule,slot or epoch or period,amount,limit;...`. One that
-- several requests with the same Idempotency-Key share begins with `as <how many> <their fingerprint>`: what one of
-- them takes back is the others' still.
-- The rules come as a JSON list: allowance, how many rules it has, and of each its name, its limit, its window
-- in ms; for every allowance. A rule's name: r<ms> requests and t<ms> tokens in a window, c calls at once,
-- d requests of the day, m requests of the month, s micro-dollars of the month. Limit: -1 for one only counted.
local SLOTS = 60
local DAY_MS = 86400000
local KEEP_MS = 40 * DAY_MS

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function int(n)
  -- Zero has no sign here: Redis takes no -0.
  n = n + 0
  -- As Lua writes a number by itself, which is much cheaper, and the same where no digit is lost.
  return n < 1e14 and n > -1e14 and tostring(n) or string.format('%.0f', n)
end

-- `each(allowance, rules)`, in their order. What only `reserve` fills in is named at once: a table that grows is
-- made anew each time.
local function each_group(wire, each)
  local list, at = cjson.decode(wire), 1
  while list[at] do
    local rules, last = {}, at + 1 + 3 * list[at + 1]
    for i = at + 2, last, 3 do
      local rule = list[i]
      rules[#rules + 1] = {rule = rule, kind = string.sub(rule, 1, 1), limit = list[i + 1], window = list[i + 2],
        number = 0, at = 0, place = 0, n = 0, here = 0, oldest = 0, used = 0, amount = 0, reset = 0, told = '',
        slot_ms = false, is_new = false}
    end
    each(list[at], rules)
    at = last + 1
  end
end

-- Puts off the end of a key, seldom: what is kept for `ms` is there for nearly as long after its last use.
local function keep(key, ms, slack)
  if redis.call('PTTL', key) < ms - slack then
    redis.call('PEXPIRE', key, ms)
    return true
  end
  return false
end

-- Days and months of UTC as numbers that grow.
-- Source: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
local function day_of(ms)
  return math.floor(ms / 86400000)
end

local function month_of(ms)
  local z = day_of(ms) + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return (yoe + era * 400 + (month <= 2 and 1 or 0)) * 12 + month - 1
end

local function month_start_ms(month)
  local y, m = math.floor(month / 12), month % 12 + 1
  if m <= 2 then
    y = y - 1
  end
  local era = math.floor(y / 400)
  local yoe = y - era * 400
  local doy = math.floor((153 * (m + (m > 2 and -3 or 9)) + 2) / 5)
  local doe = yoe * 365 + math.floor(yoe / 4) - math.floor(yoe / 100) + doy
  return (era * 146097 + doe - 719468) * 86400000
end

local function period_of(rule, ms)
  return rule == 'd' and day_of(ms) or month_of(ms)
end

-- The window without what has left it. Counts of a slot stay until all of the slot is older than the
-- window, so never more than the limit is let through in any window, wherever it begins.
local function slide(key, rule, slot, n, oldest)
  local first = slot - SLOTS
  if oldest >= first then
    return n, oldest
  end
  local names = {}
  for old = oldest, math.min(first - 1, oldest + SLOTS) do
    names[#names + 1] = rule .. ':' .. int(old)
  end
  local found, gone = redis.call('HMGET', key, unpack(names)), {}
  for i, name in ipairs(names) do
    if found[i] then
      n = n - tonumber(found[i])
      gone[#gone + 1] = name
    end
  end
  if #gone > 0 then
    redis.call('HDEL', key, unpack(gone))
  end
  redis.call('HSET', key, rule .. ':n', int(n), rule .. ':o', int(first))
  return n, first
end

-- What is asked of one allowance: `fields` of its hash, by one command, and where in them each rule's are.
local function new_group(prefix, subject)
  return {subject = subject, key = prefix .. subject, fields = {}, rules = {}}
end

local function want(group, ...)
  local at = #group.fields
  for _, field in ipairs({...}) do
    group.fields[#group.fields + 1] = field
  end
  return at
end

local function read(group)
  group.found = #group.fields > 0 and redis.call('HMGET', group.key, unpack(group.fields)) or {}
end

local function numbers(group, at, ...)
  local values = {}
  for i, default in ipairs({...}) do
    values[i] = tonumber(group.found[at + i] or default)
  end
  return unpack(values)
end

-- How many requests share a hold, their fingerprint, and where the rest begins; nil where only one can.
local function asked_of(hold)
  local asked, print, at = string.match(hold, '^as (%d+) (%w+)\n()')
  return asked and tonumber(asked), print, at
end

local function asked_as(asked, print)
  return 'as ' .. int(asked) .. ' ' .. print .. '\n'
end

-- What a job holds, allowance by allowance: `each(rule, place, amount, limit)` says what it needs to read.
local function groups_of(prefix, hold, each)
  local groups = {}
  for subject, list in string.gmatch(hold, '([^\t\n]+)\t([^\n]+)') do
    local group = new_group(prefix, subject)
    for rule, place, amount, limit in string.gmatch(list, '([^,;]+),([^,;]+),([^,;]+),([^,;]+)') do
      local one = {rule = rule, kind = string.sub(rule, 1, 1), place = tonumber(place),
        amount = tonumber(amount), limit = tonumber(limit)}
      each(group, one)
      group.rules[#group.rules + 1] = one
    end
    read(group)
    groups[#groups + 1] = group
  end
  return groups
end

local function write(group, changed)
  if #changed > 0 then
    redis.call('HSET', group.key, unpack(changed))
  end
end

local function put(changed, name, value)
  changed[#changed + 1] = name
  changed[#changed + 1] = int(value)
end

-- Puts into `changed` what a window counts now, if it still has the slot that it was counted in.
local function adjust_slot(group, one, by, changed)
  local n, there = group.found[one.at + 1], group.found[one.at + 2]
  if there then
    put(changed, one.rule .. ':n', tonumber(n) + by)
    put(changed, one.rule .. ':' .. int(one.place), tonumber(there) + by)
  end
end

local function is_lapsed(hold)
  return string.sub(hold, 1, 7) == 'lapsed\n'
end

-- Nobody said in time how the job ended: what was reserved for it is free again. Its hold stays, of
-- nothing, so that what the job cost is still counted should somebody say it later.
local function lapse(prefix, job, hold, now)
  local kept = {}
  local groups = groups_of(prefix, hold, function(group, one)
    if one.kind == 's' then
      one.at = want(group, 'epoch', 's:n', 's:r')
    end
  end)
  for _, group in ipairs(groups) do
    for _, one in ipairs(group.rules) do
      if one.kind == 's' then
        local epoch, n, reserved = numbers(group, one.at, 0, 0, 0)
        if epoch == one.place then
          write(group, {'s:n', int(n - one.amount), 's:r', int(reserved - one.amount)})
        end
        kept[#kept + 1] = group.subject .. '\ts,' .. int(one.place) .. ',0,' .. int(one.limit)
      end
    end
  end
  if #kept == 0 then
    redis.call('HDEL', prefix .. 'holds', job)
    redis.call('ZREM', prefix .. 'due', job)
  else
    redis.call('HSET', prefix .. 'holds', job, 'lapsed\n' .. table.concat(kept, '\n'))
    redis.call('ZADD', prefix .. 'due', int(now + 7 * 86400000), job)
  end
end

local function lapse_due(prefix, now, most)
  local jobs = redis.call('ZRANGEBYSCORE', prefix .. 'due', '-inf', int(now), 'LIMIT', 0, most)
  for _, job in ipairs(jobs) do
    local hold = redis.call('HGET', prefix .. 'holds', job)
    if hold and not is_lapsed(hold) then
      lapse(prefix, job, hold, now)
    else
      redis.call('HDEL', prefix .. 'holds', job)
      redis.call('ZREM', prefix .. 'due', job)
    end
  end
end
