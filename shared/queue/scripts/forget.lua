-- flags: allow-oom
-- Remove an ended job and what its stream said, at its owner's wish and before its time.
-- KEYS: job, events
-- ARGV: account
-- Returns {'missing'} | {'running', state} | {'forgotten'}
local f = redis.call('HMGET', KEYS[1], 'state', 'account', 'retain')
if not f[1] or f[2] ~= ARGV[1] then
  return {'missing'}
end
if not TERMINAL[f[1]] then
  return {'running', f[1]}
end
local ms = redis.call('PTTL', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
-- Its id stays taken, with nothing else of it: an Idempotency-Key that still names it must not run it again
-- under an id that the ledger has already.
redis.call('HSET', KEYS[1], 'forgotten', '1')
redis.call('PEXPIRE', KEYS[1], ms > 0 and ms or f[3])
return {'forgotten'}
