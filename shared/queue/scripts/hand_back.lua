-- flags: allow-oom
-- Give a running job back unharmed: it counts neither as attempt nor as delivery.
-- The entry keeps its place and looks idle for as long as told: beyond the lease, the next sweep takes it.
-- KEYS: job, lane
-- ARGV: id, fence, consumer, idle_ms, the call that was broken off (usage.py, Attempt), or ''
-- Returns 1 given back (also when replayed), 0 refused
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'entry', 'deliveries', 'calls')
if f[2] ~= ARGV[2] then
  return 0
end
if f[1] == 'queued' and f[3] ~= '' then
  return 1
end
if f[1] ~= 'running' then
  return 0
end
local deliveries = math.max(tonumber(f[4]) - 1, 0)
redis.call('HSET', KEYS[1], 'state', 'queued', 'deliveries', deliveries, 'holder', '')
if ARGV[5] and ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'calls', with_line(f[5], ARGV[5]))
end
redis.call('XCLAIM', KEYS[2], GROUP, ARGV[3], 0, f[3], 'IDLE', ARGV[4], 'RETRYCOUNT', deliveries, 'JUSTID')
return 1
