-- Take back a reservation: the job never was one. That it was asked for stays counted.
-- Again changes nothing, where only one request had it.
-- KEYS: holds of the account. ARGV: job
-- Returns 1 taken back, 0 there was none, or other requests have it too
local prefix = string.sub(KEYS[1], 1, -6)
local hold = redis.call('HGET', KEYS[1], ARGV[1])
if not hold then
  return 0
end
local asked, print, at = asked_of(hold)
if asked and asked > 1 then
  redis.call('HSET', KEYS[1], ARGV[1], asked_as(asked - 1, print) .. string.sub(hold, at))
  return 0
end
local groups = groups_of(prefix, hold, function(group, one)
  if one.kind == 't' then
    one.at = want(group, one.rule .. ':n', one.rule .. ':' .. int(one.place))
  elseif one.kind == 's' then
    one.at = want(group, 'epoch', 's:n', 's:r')
  elseif one.kind ~= 'c' and one.kind ~= 'r' then
    one.at = want(group, one.kind .. ':id', one.kind .. ':n')
  end
end)
for _, group in ipairs(groups) do
  local changed = {}
  for _, one in ipairs(group.rules) do
    if one.kind == 't' then
      adjust_slot(group, one, -one.amount, changed)
    elseif one.kind == 'c' then
      redis.call('ZREM', group.key .. ':calls', ARGV[1])
    elseif one.kind == 's' then
      local epoch, n, reserved = numbers(group, one.at, 0, 0, 0)
      if epoch == one.place then
        put(changed, 's:n', n - one.amount)
        put(changed, 's:r', reserved - one.amount)
      end
    elseif one.kind ~= 'r' then
      local id, n = numbers(group, one.at, 0, 0)
      if id == one.place then
        put(changed, one.kind .. ':n', n - one.amount)
      end
    end
  end
  write(group, changed)
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', prefix .. 'due', ARGV[1])
return 1
