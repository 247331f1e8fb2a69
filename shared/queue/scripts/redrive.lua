-- Run a dead job again, as a new one: the result of the dead one is visible and never changes.
-- KEYS: dead job, new job, lane of the new job, backlog of that lane
-- ARGV: id of the new job, its header, budget_ms, max_entries, window, cap
-- Returns {'redriven', id of the new job}, also when that was done before | {'gone'} | {'full', entries}
local f = redis.call('HMGET', KEYS[1], 'redriven_as', 'body', 'account', 'retain', 'cost', 'store')
if f[1] then
  return {'redriven', f[1]}
end
if not f[2] then
  return {'gone'}
end
local entries = redis.call('XLEN', KEYS[3]) + redis.call('ZCARD', KEYS[4]) + redis.call('ZCARD', KEYS[4] .. ':parked')
if entries >= tonumber(ARGV[4]) then
  return {'full', entries}
end
local now = now_ms()
redis.call('HSET', KEYS[1], 'redriven_as', ARGV[1])
redis.call('HSET', KEYS[2],
  'header', ARGV[2], 'body', f[2], 'account', f[3], 'state', 'queued', 'fence', 0,
  'attempts', 0, 'deliveries', 0, 'created', int(now), 'deadline', int(now + tonumber(ARGV[3])),
  'retain', f[4], 'reply', '', 'readers', '', 'keep', '1', 'print', '',
  'backlog', KEYS[4], 'cost', f[5] or 1)
if f[6] then
  redis.call('HSET', KEYS[2], 'store', f[6])
end
push(KEYS[2], ARGV[1], KEYS[3], KEYS[4], f[3], tonumber(f[5] or 1), tonumber(ARGV[5]), tonumber(ARGV[6]))
redis.call('PEXPIRE', KEYS[2], int(tonumber(ARGV[3]) + tonumber(f[4])))
return {'redriven', ARGV[1]}
