-- Count what jobs really took in the place of what was reserved for them. Once: again changes nothing.
-- What is counted is read once and written once, however many jobs ended. Counts that passed half of their limit are
-- kept besides: whoever is answered may die before he told anybody, and is answered once.
-- KEYS: holds of the account. ARGV: for each: job, tokens, micro-dollars, moment it ended in ms
-- Returns a list of {allowance, rule, period, used, limit} of the calendar counts they were under, as all of
-- them left it
local prefix = string.sub(KEYS[1], 1, -6)
local asked = {}
for i = 1, #ARGV, 4 do
  asked[#asked + 1] = ARGV[i]
end
local held = redis.call('HMGET', KEYS[1], unpack(asked))
local groups, order, settled, counts = {}, {}, {}, {}

local function group_of(subject)
  local group = groups[subject]
  if not group then
    group = {key = prefix .. subject, subject = subject, windows = {}, changed = {}, calls = {}, calendar = false,
      told = {}}
    groups[subject] = group
    order[#order + 1] = group
  end
  return group
end

-- Of a window: what it counts, in all and of the slots that jobs were counted in. Not those that have left it.
local function take_back(group, rule, place, by)
  local window = group.windows[rule]
  if not window then
    window = {n = false, slots = {}}
    group.windows[rule] = window
  end
  local there = window.slots[place]
  if there == nil then
    local found = redis.call('HMGET', group.key, rule .. ':n', rule .. ':' .. place)
    window.n, there = window.n or tonumber(found[1] or 0), found[2] and tonumber(found[2])
    window.slots[place] = there
  end
  if there and by ~= 0 then
    window.n, window.slots[place], window.is_changed = window.n + by, there + by, true
  end
end

local function calendar_of(group)
  local calendar = group.calendar
  if not calendar then
    local f = redis.call('HMGET', group.key, 'epoch', 'd:id', 'd:n', 'm:id', 'm:n', 's:id', 's:n', 's:r')
    for i = 1, 8 do
      f[i] = tonumber(f[i] or 0)
    end
    calendar = {epoch = f[1], reserved = f[8], is_changed = false,
      d = {id = f[2], n = f[3]}, m = {id = f[4], n = f[5]}, s = {id = f[6], n = f[7]}}
    group.calendar = calendar
  end
  return calendar
end

local function spend(calendar, epoch, reserved, cost, ended)
  local s, month = calendar.s, month_of(ended)
  if s.id < month then
    s.id, s.n = month, calendar.reserved
  end
  if calendar.epoch == epoch then
    s.n, calendar.reserved = s.n - reserved, calendar.reserved - reserved
  end
  if s.id == month then
    s.n = s.n + cost
  end
  calendar.is_changed = true
end

-- A period that ended between two of the jobs is told too, and so is a limit that changed between them.
local function tell(group, kind, period, limit)
  local last = group.told[kind]
  if last and last[3] == period.id and last[5] == limit then
    last[4] = period.n
  else
    last = {group.subject, kind, period.id, period.n, limit}
    group.told[kind] = last
    counts[#counts + 1] = last
  end
end

for j = 1, #asked do
  local job, hold, at = asked[j], held[j], 4 * j - 3
  if hold and not settled[job] then
    settled[job] = true
    settled[#settled + 1] = job
    local tokens, cost, ended = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    for subject, list in string.gmatch(hold, '([^\t\n]+)\t([^\n]+)') do
      local group = group_of(subject)
      -- Requests stay what they are: their rules are passed over.
      for kind, window, place, amount, limit in string.gmatch(list, '([tcdms])(%d*),([^,;]+),([^,;]+),([^,;]+)') do
        if kind == 't' then
          take_back(group, kind .. window, place, tokens - amount)
        elseif kind == 'c' then
          group.calls[#group.calls + 1] = job
        else
          local calendar = calendar_of(group)
          if kind ~= 's' then
            tell(group, kind, calendar[kind], tonumber(limit))
          elseif calendar.epoch > 0 then
            spend(calendar, tonumber(place), tonumber(amount), cost, ended)
            -- What is only reserved is not spent, and mostly never will be.
            tell(group, kind, {id = calendar.s.id, n = calendar.s.n - calendar.reserved}, tonumber(limit))
          end
        end
      end
    end
  end
end

for _, group in ipairs(order) do
  local changed, calendar = {}, group.calendar
  for rule, window in pairs(group.windows) do
    if window.is_changed then
      put(changed, rule .. ':n', window.n)
      for place, there in pairs(window.slots) do
        if there then
          put(changed, rule .. ':' .. place, there)
        end
      end
    end
  end
  if calendar and calendar.is_changed then
    put(changed, 's:id', calendar.s.id)
    put(changed, 's:n', calendar.s.n)
    put(changed, 's:r', calendar.reserved)
  end
  write(group, changed)
  if #group.calls > 0 then
    redis.call('ZREM', group.key .. ':calls', unpack(group.calls))
  end
end
local passed = {}
for _, told in ipairs(counts) do
  local subject, kind, period, n, limit = unpack(told)
  if limit > 0 and 2 * n >= limit then
    passed[#passed + 1] = subject .. '\t' .. kind
    passed[#passed + 1] = int(period) .. ',' .. int(n) .. ',' .. int(limit)
  end
end
if #passed > 0 then
  redis.call('HSET', prefix .. 'passed', unpack(passed))
  keep(prefix .. 'passed', KEEP_MS, DAY_MS)
end
if #settled > 0 then
  redis.call('HDEL', KEYS[1], unpack(settled))
  redis.call('ZREM', prefix .. 'due', unpack(settled))
end
return counts
