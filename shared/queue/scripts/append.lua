-- flags: allow-oom
-- Add stream events to the job's log and tell its readers.
-- KEYS: job, events
-- ARGV: id, fence, ordinal of the first event, of the last, events (one JSON document a line)
-- Returns 1 written, 0 lost, 2 written but asked to stop
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'reply', 'cancel', 'retain', 'deadline')
if f[1] ~= 'running' or f[2] ~= ARGV[2] then
  return 0
end
if tonumber(last_ordinal(KEYS[2])) < tonumber(ARGV[4]) then
  redis.call('XADD', KEYS[2], ARGV[4] .. '-1', 'd', ARGV[5])
  if ARGV[3] == '1' then
    redis.call('PEXPIRE', KEYS[2], int(tonumber(f[6]) - now_ms() + tonumber(f[5])))
  end
  publish(f[3], 'e' .. ARGV[1] .. '\n' .. ARGV[3] .. ' ' .. ARGV[4] .. '\n' .. ARGV[5])
end
return f[4] and 2 or 1
