-- flags: allow-oom
-- End a running job.
-- KEYS: job, lane, events, usage
-- ARGV: id, fence, state, head, body, settlement, inline_max,
--       ordinals of the first and the last of the stream's last events, these events ('' = none)
-- Returns 1 ended (also when replayed), 0 refused: somebody else holds or ended it
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'reply', 'retain')
if f[2] ~= ARGV[2] then
  return 0
end
if f[1] ~= 'running' then
  return TERMINAL[f[1]] and f[1] == ARGV[3] and 1 or 0
end
if ARGV[10] ~= '' then
  append_events(KEYS[3], ARGV[1], ARGV[8], ARGV[9], ARGV[10], f[3], f[4], tonumber(ARGV[7]))
end
settle({job = KEYS[1], lane = KEYS[2], events = KEYS[3], usage = KEYS[4]},
  ARGV[1], ARGV[3], ARGV[4], ARGV[5], ARGV[6], now_ms(), tonumber(ARGV[7]))
return 1
