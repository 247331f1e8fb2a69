-- flags: allow-oom
-- One more channel hears how a job ends, and what it says until then.
-- KEYS: job
-- ARGV: account, reply channel
-- Returns 1, or 0 where the account has no such job or it has ended
local f = redis.call('HMGET', KEYS[1], 'account', 'state', 'reply')
if f[1] ~= ARGV[1] or TERMINAL[f[2]] then
  return 0
end
redis.call('HSET', KEYS[1], 'reply', with_item(f[3] or '', ARGV[2]))
return 1
