-- Begin the calendar counts of an allowance with what the ledger says, unless they are known.
-- KEYS: holds of the account. ARGV: allowance, requests of the day, of the month, micro-dollars of the month,
--       '1' to begin anew although they are known
local prefix = string.sub(KEYS[1], 1, -6)
local key = prefix .. ARGV[1]
if ARGV[5] ~= '1' and redis.call('HEXISTS', key, 'epoch') == 1 then
  return 0
end
local now = now_ms()
local epoch = math.max(now, tonumber(redis.call('HGET', key, 'epoch') or 0) + 1)
redis.call('HSET', key, 'epoch', int(epoch), 's:r', '0',
  'd:id', int(day_of(now)), 'd:n', ARGV[2], 'm:id', int(month_of(now)), 'm:n', ARGV[3],
  's:id', int(month_of(now)), 's:n', ARGV[4])
-- A window of this allowance may be longer.
keep(key, KEEP_MS, 0)
return 1
