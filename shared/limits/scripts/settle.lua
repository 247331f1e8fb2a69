-- Count what a job really took in the place of what was reserved for it. Once: again changes nothing.
-- KEYS: holds of the account. ARGV: job, tokens, micro-dollars, moment it ended in ms
-- Returns a list of {allowance, rule, period, used, limit} of the calendar counts it was under
local prefix = string.sub(KEYS[1], 1, -6)
local hold = redis.call('HGET', KEYS[1], ARGV[1])
if not hold then
  return {}
end
local tokens, cost, ended = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local groups = groups_of(prefix, hold, function(group, one)
  if one.kind == 't' then
    one.at = want(group, one.rule .. ':n', one.rule .. ':' .. int(one.place))
  elseif one.kind == 's' then
    one.at = want(group, 'epoch', 's:id', 's:n', 's:r')
  elseif one.kind == 'd' or one.kind == 'm' then
    one.at = want(group, one.kind .. ':id', one.kind .. ':n')
  end
end)
local counts = {}
for _, group in ipairs(groups) do
  local changed = {}
  for _, one in ipairs(group.rules) do
    if one.kind == 't' then
      adjust_slot(group, one, tokens - one.amount, changed)
    elseif one.kind == 'c' then
      redis.call('ZREM', group.key .. ':calls', ARGV[1])
    elseif one.kind == 's' then
      local epoch, id, n, reserved = numbers(group, one.at, 0, 0, 0, 0)
      if epoch > 0 then
        local month = month_of(ended)
        if id < month then
          id, n = month, reserved
        end
        if epoch == one.place then
          n, reserved = n - one.amount, reserved - one.amount
        end
        if id == month then
          n = n + cost
        end
        put(changed, 's:id', id)
        put(changed, 's:n', n)
        put(changed, 's:r', reserved)
        counts[#counts + 1] = {group.subject, 's', id, n, one.limit}
      end
    elseif one.kind ~= 'r' then
      local id, n = numbers(group, one.at, 0, 0)
      counts[#counts + 1] = {group.subject, one.kind, id, n, one.limit}
    end
  end
  write(group, changed)
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', prefix .. 'due', ARGV[1])
return counts
