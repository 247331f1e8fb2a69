-- flags: allow-oom
-- Remove a dead letter. Its job is kept no longer than any other that ended.
-- KEYS: dead, job
-- ARGV: entry
-- Returns 1 removed, 0 it was not there
local removed = redis.call('XDEL', KEYS[1], ARGV[1])
local f = redis.call('HMGET', KEYS[2], 'finished', 'retain')
if removed == 1 and f[1] then
  local left = tonumber(f[1]) + tonumber(f[2]) - now_ms()
  if left < redis.call('PTTL', KEYS[2]) then
    redis.call('PEXPIRE', KEYS[2], int(math.max(left, 1)))
  end
end
return removed
