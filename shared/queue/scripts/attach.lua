-- One more reader for a job: its channel hears what happens from now on.
-- KEYS: job
-- ARGV: account, reply channel
-- Returns {} when there is no such job of this account, else
--   {state, attach, header, last, result_head, result_body}
local f = redis.call('HMGET', KEYS[1], 'state', 'account', 'reply', 'header', 'last', 'result_head', 'result_body')
if not f[1] or f[2] ~= ARGV[1] then
  return {}
end
if not TERMINAL[f[1]] and not string.find(',' .. f[3] .. ',', ',' .. ARGV[2] .. ',', 1, true) then
  redis.call('HSET', KEYS[1], 'reply', f[3] == '' and ARGV[2] or (f[3] .. ',' .. ARGV[2]))
end
return {f[1], redis.call('HINCRBY', KEYS[1], 'attach', 1), f[4], f[5] or '', f[6] or '', f[7] or ''}
