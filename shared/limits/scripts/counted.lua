-- What is counted of each rule; changes nothing but what time changes.
-- KEYS: holds of the account. ARGV: the rules, '1' if reservations may lapse
-- Returns {'ok', used, reserved, ms until it is all there again, ...} | {'unknown', allowance}
local prefix = string.sub(KEYS[1], 1, -6)
local now = now_ms()
if ARGV[2] == '1' then
  lapse_due(prefix, now, 20)
end
local answer = {'ok'}
local unknown
each_group(ARGV[1], function(subject, rules)
  local key = prefix .. subject
  for _, one in ipairs(rules) do
    local rule, kind = one.rule, one.kind
    local used, reserved, reset = 0, 0, 0
    if kind == 'r' or kind == 't' then
      local slot_ms = one.window / SLOTS
      local slot = math.floor(now / slot_ms)
      local f = redis.call('HMGET', key, rule .. ':n', rule .. ':o')
      used = slide(key, rule, slot, tonumber(f[1] or 0), tonumber(f[2] or slot))
      reset = (slot + SLOTS + 1) * slot_ms - now
    elseif kind == 'c' then
      redis.call('ZREMRANGEBYSCORE', key .. ':calls', '-inf', int(now))
      used = redis.call('ZCARD', key .. ':calls')
    else
      local f = redis.call('HMGET', key, 'epoch', kind .. ':id', kind .. ':n', kind .. ':r')
      if not f[1] then
        unknown = unknown or subject
      end
      local id, period = tonumber(f[2] or 0), period_of(kind, now)
      reserved = tonumber(f[4] or 0)
      used = id < period and reserved or tonumber(f[3] or 0)
      period = math.max(id, period)
      reset = (kind == 'd' and (period + 1) * 86400000 or month_start_ms(period + 1)) - now
    end
    answer[#answer + 1] = used
    answer[#answer + 1] = reserved
    answer[#answer + 1] = math.ceil(reset)
  end
end)
if unknown then
  return {'unknown', unknown}
end
return answer
