-- flags: allow-oom
-- Stop a job. A queued one ends here; its lane entry stays as a tombstone that a worker skips,
-- because deleting an undelivered entry makes the group's lag unknown and blinds autoscalers.
-- KEYS: job, lane, events, usage
-- ARGV: id, account, '1' to stop it only if nobody reads it and it is not kept, inline_max,
--       worker channel prefix
-- Returns {'missing'} | {'kept'} | {'cancelled'} | {'stopping', consumer} | {'done', state}
local f = redis.call('HMGET', KEYS[1], 'state', 'account', 'readers', 'consumer', 'keep')
if not f[1] or f[2] ~= ARGV[2] then
  return {'missing'}
end
if TERMINAL[f[1]] then
  return {'done', f[1]}
end
if ARGV[3] == '1' and (f[3] ~= '' or f[5] == '1') then
  return {'kept'}
end
local now = now_ms()
if f[1] == 'running' then
  redis.call('HSET', KEYS[1], 'cancel', '1')
  redis.call('PUBLISH', ARGV[5] .. f[4], ARGV[1])
  return {'stopping', f[4]}
end
local settlement = own_settlement(KEYS[1], 'cancelled', 'job_cancelled', now)
redis.call('HSET', KEYS[1], 'entry', '')
settle({job = KEYS[1], lane = KEYS[2], events = KEYS[3], usage = KEYS[4]},
  ARGV[1], 'cancelled', '{"outcome":"cancelled"}', '', settlement, now, tonumber(ARGV[4]))
return {'cancelled'}
