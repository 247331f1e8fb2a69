-- flags: allow-oom
-- One more reader for a stream: its channel hears what happens from now on.
-- KEYS: job
-- ARGV: account, reply channel, token of the reader, surface ('' = any)
-- Returns {} when this account has no such job on that surface, {'no_stream'} when it does not stream, else
--   {state, header, last, result_head, result_body}
local f = redis.call('HMGET', KEYS[1],
  'state', 'account', 'reply', 'readers', 'header', 'last', 'result_head', 'result_body')
if not f[1] or f[2] ~= ARGV[1] then
  return {}
end
local header = cjson.decode(f[5])
if ARGV[4] ~= '' and header['surface'] ~= ARGV[4] then
  return {}
end
if not header['stream'] then
  return {'no_stream'}
end
if not TERMINAL[f[1]] then
  redis.call('HSET', KEYS[1], 'reply', with_item(f[3], ARGV[2]), 'readers', with_item(f[4], ARGV[3]))
end
return {f[1], f[5], f[6] or '', f[7] or '', f[8] or ''}
