-- Run a dead job again, as a new one: the result of the dead one is visible and never changes.
-- KEYS: dead job, new job, lane of the new job
-- ARGV: id of the new job, its header, budget_ms, max_entries
-- Returns {'redriven', id of the new job}, also when that was done before | {'gone'} | {'full', entries}
local f = redis.call('HMGET', KEYS[1], 'redriven_as', 'body', 'account', 'retain')
if f[1] then
  return {'redriven', f[1]}
end
if not f[2] then
  return {'gone'}
end
local entries = redis.call('XLEN', KEYS[3])
if entries >= tonumber(ARGV[4]) then
  return {'full', entries}
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'redriven_as', ARGV[1])
redis.call('HSET', KEYS[2],
  'header', ARGV[2], 'body', f[2], 'account', f[3], 'state', 'queued', 'fence', 0,
  'attempts', 0, 'deliveries', 0, 'created', int(now), 'deadline', int(now + tonumber(ARGV[3])),
  'retain', f[4], 'reply', '', 'readers', '', 'keep', '1', 'print', '')
redis.call('PEXPIRE', KEYS[2], int(tonumber(ARGV[3]) + tonumber(f[4])))
-- Into the lane, as enqueue does:
redis.call('HSET', KEYS[2], 'entry', redis.call('XADD', KEYS[3], '*', 'job', ARGV[1]))
return {'redriven', ARGV[1]}
