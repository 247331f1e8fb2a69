-- flags: allow-oom
-- Send a running job to the next target of its plan: to the end of that provider's lane.
-- KEYS: job, lane it leaves, lane it goes to, backlog it goes to
-- ARGV: id, fence, hop it goes to, '1' when a call failed, window, cap, why it goes (one line),
--       the call that failed (usage.py, Attempt), or ''
-- Returns 1 moved (also when replayed), 0 refused, 2 its deadline has passed: finish it instead
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'hop', 'deadline', 'deliveries', 'account', 'cost',
  'failures', 'calls')
if f[2] ~= ARGV[2] then
  return 0
end
if f[1] == 'queued' and f[3] == ARGV[3] then
  return 1
end
if f[1] ~= 'running' then
  return 0
end
if now_ms() >= tonumber(f[4]) then
  return 2
end
if ARGV[4] == '1' then
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
end
take_off(KEYS[1], KEYS[2], 'state', 'queued', 'holder', '', 'hop', ARGV[3], 'hop_attempts', 0,
  'backlog', KEYS[4], 'failures', f[8] and (f[8] .. '\n' .. ARGV[7]) or ARGV[7],
  'deliveries', math.max(tonumber(f[5]) - 1, 0))
redis.call('HDEL', KEYS[1], 'aside_since')
if ARGV[8] and ARGV[8] ~= '' then
  redis.call('HSET', KEYS[1], 'calls', with_line(f[9], ARGV[8]))
end
push(KEYS[1], ARGV[1], KEYS[3], KEYS[4], f[6], tonumber(f[7] or 1), tonumber(ARGV[5]), tonumber(ARGV[6]))
return 1
