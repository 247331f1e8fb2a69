-- flags: allow-oom
-- Remove an ended job and what its stream said, at its owner's wish and before its time.
-- KEYS: job, events
-- ARGV: account
-- Returns {'missing'} | {'running', state} | {'forgotten'}
local f = redis.call('HMGET', KEYS[1], 'state', 'account')
if not f[1] or f[2] ~= ARGV[1] then
  return {'missing'}
end
if not TERMINAL[f[1]] then
  return {'running', f[1]}
end
redis.call('DEL', KEYS[1], KEYS[2])
return {'forgotten'}
