-- Accept a job once. Replayed or repeated with the same id: attaches to what is there.
-- KEYS: job, lane
-- ARGV: id, header, body, account, budget_ms, retain_ms, max_entries, reply channel, fingerprint
-- Returns {'queued', '', 0} | {'attached', state, attach} | {'conflict'} | {'full', entries}
local f = redis.call('HMGET', KEYS[1], 'state', 'print', 'reply', 'attach')
if f[1] then
  if f[2] ~= ARGV[9] then
    return {'conflict'}
  end
  if ARGV[8] ~= '' and not string.find(',' .. f[3] .. ',', ',' .. ARGV[8] .. ',', 1, true) then
    redis.call('HSET', KEYS[1], 'reply', f[3] == '' and ARGV[8] or (f[3] .. ',' .. ARGV[8]))
  end
  return {'attached', f[1], redis.call('HINCRBY', KEYS[1], 'attach', 1)}
end
local entries = redis.call('XLEN', KEYS[2])
if entries >= tonumber(ARGV[7]) then
  return {'full', entries}
end
local now = now_ms()
local entry = redis.call('XADD', KEYS[2], '*', 'job', ARGV[1])
redis.call('HSET', KEYS[1],
  'header', ARGV[2], 'body', ARGV[3], 'account', ARGV[4], 'state', 'queued', 'fence', 0,
  'entry', entry, 'attempts', 0, 'deliveries', 0, 'created', int(now),
  'deadline', int(now + tonumber(ARGV[5])), 'retain', ARGV[6], 'reply', ARGV[8],
  'attach', 0, 'print', ARGV[9])
redis.call('PEXPIRE', KEYS[1], int(tonumber(ARGV[5]) + tonumber(ARGV[6])))
return {'queued', '', 0}
