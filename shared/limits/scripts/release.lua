-- Take back a reservation: the job never was one. Again changes nothing.
-- KEYS: holds of the account. ARGV: job
-- Returns 1 taken back, 0 there was none
local prefix = string.sub(KEYS[1], 1, -6)
local hold = redis.call('HGET', KEYS[1], ARGV[1])
if not hold then
  return 0
end
for _, part in ipairs(parts_of(hold)) do
  local key, rule, place, amount = prefix .. part[1], part[2], part[3], part[4]
  if is_window(rule) then
    adjust_slot(key, rule, place, -amount)
  elseif rule == 'c' then
    redis.call('ZREM', key .. ':calls', ARGV[1])
  elseif rule == 's' then
    if tonumber(redis.call('HGET', key, 'epoch') or 0) == place then
      redis.call('HINCRBY', key, 's:n', int(-amount))
      redis.call('HINCRBY', key, 's:r', int(-amount))
    end
  elseif tonumber(redis.call('HGET', key, rule .. ':id') or 0) == place then
    redis.call('HINCRBY', key, rule .. ':n', int(-amount))
  end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', prefix .. 'due', ARGV[1])
return 1
