-- What is counted of each rule; changes nothing but what time changes.
-- KEYS: holds of the account. ARGV: for each rule: allowance, rule, limit, window in ms
-- Returns {'ok', used, reserved, ms until it is all there again, ...} | {'unknown', allowance}
local prefix = string.sub(KEYS[1], 1, -6)
local now = now_ms()
lapse_due(prefix, now)
local answer = {'ok'}
for i = 1, #ARGV, 4 do
  local key, rule, window = prefix .. ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3])
  local kind = string.sub(rule, 1, 1)
  local used, reserved, reset = 0, 0, 0
  if kind == 'r' or kind == 't' then
    local slot_ms = window / SLOTS
    local slot = math.floor(now / slot_ms)
    used = slide(key, rule, slot)
    reset = (slot + SLOTS + 1) * slot_ms - now
  elseif kind == 'c' then
    redis.call('ZREMRANGEBYSCORE', key .. ':calls', '-inf', int(now))
    used = redis.call('ZCARD', key .. ':calls')
  else
    if redis.call('HEXISTS', key, 'epoch') == 0 then
      return {'unknown', ARGV[i]}
    end
    local period
    used, period = current(key, kind, period_of(kind, now))
    reserved = tonumber(redis.call('HGET', key, kind .. ':r') or 0)
    reset = (kind == 'd' and (period + 1) * 86400000 or month_start_ms(period + 1)) - now
  end
  answer[#answer + 1] = used
  answer[#answer + 1] = reserved
  answer[#answer + 1] = math.ceil(reset)
end
return answer
