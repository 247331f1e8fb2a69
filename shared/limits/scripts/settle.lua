-- Count what a job really took in the place of what was reserved for it. Once: again changes nothing.
-- KEYS: holds of the account. ARGV: job, tokens, micro-dollars, moment it ended in ms
-- Returns a list of {allowance, rule, period, used, limit} of the calendar counts it was under
local prefix = string.sub(KEYS[1], 1, -6)
local hold = redis.call('HGET', KEYS[1], ARGV[1])
if not hold then
  return {}
end
local tokens, cost, ended = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local counts = {}
for _, part in ipairs(parts_of(hold)) do
  local key, rule, place, amount = prefix .. part[1], part[2], part[3], part[4]
  local kind = string.sub(rule, 1, 1)
  if kind == 't' then
    adjust_slot(key, rule, place, tokens - amount)
  elseif kind == 'c' then
    redis.call('ZREM', key .. ':calls', ARGV[1])
  elseif kind == 's' then
    local epoch = tonumber(redis.call('HGET', key, 'epoch') or 0)
    if epoch > 0 then
      local _, period = current(key, 's', month_of(ended))
      local used = 0
      if epoch == place then
        redis.call('HINCRBY', key, 's:r', int(-amount))
        used = redis.call('HINCRBY', key, 's:n', int(-amount))
      end
      if period == month_of(ended) then
        used = redis.call('HINCRBY', key, 's:n', int(cost))
      end
      counts[#counts + 1] = {part[1], 's', period, used, part[5]}
    end
  elseif kind == 'd' or kind == 'm' then
    local f = redis.call('HMGET', key, kind .. ':id', kind .. ':n')
    counts[#counts + 1] = {part[1], kind, tonumber(f[1] or 0), tonumber(f[2] or 0), part[5]}
  end
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', prefix .. 'due', ARGV[1])
return counts
