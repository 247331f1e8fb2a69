-- flags: allow-oom
-- Put a running job aside until it is due; frees the worker's slot.
-- KEYS: job, lane, delayed
-- ARGV: id, fence, delay_ms, lane name
-- Returns 1 put aside (also when replayed), 0 refused, 2 its deadline comes first: finish it instead
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'entry', 'deadline', 'deliveries')
if f[2] ~= ARGV[2] then
  return 0
end
if f[1] == 'queued' and f[3] == '' then
  return 1
end
if f[1] ~= 'running' then
  return 0
end
local due = now_ms() + tonumber(ARGV[3])
if due >= tonumber(f[4]) then
  return 2
end
redis.call('ZADD', KEYS[3], int(due), ARGV[1] .. '|' .. ARGV[4])
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
-- This delivery ended with its worker alive, so it does not count towards poison.
redis.call('HSET', KEYS[1], 'state', 'queued', 'entry', '', 'holder', '',
  'deliveries', math.max(tonumber(f[5]) - 1, 0))
drop_entry(KEYS[2], f[3])
return 1
