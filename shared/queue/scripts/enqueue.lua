-- Accept a job once. Replayed or repeated with the same id: attaches to what is there.
-- KEYS: job, lane
-- ARGV: id, header, body, account, budget_ms, retain_ms, max_entries, reply channel, fingerprint,
--       token of the reader, '1' to keep the job without readers
-- Returns {'queued'} | {'attached', state} | {'conflict'} | {'full', entries}
local f = redis.call('HMGET', KEYS[1], 'state', 'print', 'reply', 'readers')
if f[1] then
  if f[2] ~= ARGV[9] then
    return {'conflict'}
  end
  redis.call('HSET', KEYS[1], 'reply', with_item(f[3], ARGV[8]), 'readers', with_item(f[4], ARGV[10]))
  return {'attached', f[1]}
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
  'readers', ARGV[10], 'keep', ARGV[11], 'print', ARGV[9])
redis.call('PEXPIRE', KEYS[1], int(tonumber(ARGV[5]) + tonumber(ARGV[6])))
return {'queued'}
