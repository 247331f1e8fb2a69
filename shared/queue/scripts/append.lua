-- flags: allow-oom
-- Add stream events to the job's log and tell its readers.
-- KEYS: job, events
-- ARGV: id, fence, ordinal of the first event, of the last, events (one JSON document a line),
--       inline_max
-- Returns 1 written, 0 lost, 2 written but asked to stop
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'reply', 'cancel', 'retain', 'deadline')
if f[1] ~= 'running' or f[2] ~= ARGV[2] then
  return 0
end
append_events(KEYS[2], ARGV[1], ARGV[3], ARGV[4], ARGV[5], f[3],
  int(tonumber(f[6]) - now_ms() + tonumber(f[5])), tonumber(ARGV[6]))
return f[4] and 2 or 1
