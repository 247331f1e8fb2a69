-- flags: allow-oom
-- Take a delivered entry into execution, or end the job if it must not run.
-- KEYS: job, lane, events, usage, dead, backlog, retries
-- ARGV: id, entry, token of this delivery, consumer, max_deliveries, inline_max, window, cap,
--       dead_retain_ms, what each call adds to the retry budget, most that budget holds
-- Returns {'run', fence, header, body, attempts, deliveries, remaining_ms, waited_ms, hop, hop_attempts,
--          failures}
--       | {'gone'} | {'stale'} | {'done'} | {'elsewhere'} | {'expired'} | {'dead'} | {'interrupted'}
--       | {'cancelled'}
refill(KEYS[2], KEYS[6], tonumber(ARGV[7]), tonumber(ARGV[8]))
local keys = {job = KEYS[1], lane = KEYS[2], events = KEYS[3], usage = KEYS[4]}
local f = redis.call('HMGET', KEYS[1], 'state', 'entry', 'fence', 'deliveries', 'deadline', 'created',
  'attempts', 'holder', 'header', 'body', 'cancel', 'hop', 'hop_attempts', 'failures', 'calls')
local state = f[1]
if not state then
  drop_entry(KEYS[2], ARGV[2])
  return {'gone'}
end
if TERMINAL[state] then
  drop_entry(KEYS[2], ARGV[2])
  return {'done'}
end
if f[2] ~= ARGV[2] then
  drop_entry(KEYS[2], ARGV[2])
  return {'stale'}
end
local now = now_ms()
local remaining = tonumber(f[5]) - now
local deliveries = tonumber(f[4])
local fence = tonumber(f[3])
if not (state == 'running' and f[8] == ARGV[3]) then
  local inline_max = tonumber(ARGV[6])
  -- Frozen since it read the entry, this worker has lost it: whoever reclaimed it runs the job.
  local held = redis.call('XPENDING', KEYS[2], GROUP, ARGV[2], ARGV[2], 1)
  if held[1] and held[1][2] ~= ARGV[4] then
    return {'elsewhere'}
  end
  if state == 'running' then
    -- Whoever ran it is gone, and with it what the provider answered, if it was asked.
    local target = cjson.decode(f[9])['plan'][1 + tonumber(f[12] or 0)]
    redis.call('HSET', KEYS[1], 'calls', with_line(f[15], cjson.encode({
      target[1], target[2], target[3], 'lost', cjson.null, 0, 0, cjson.null, 0})))
  end
  if f[11] then
    settle(keys, ARGV[1], 'cancelled', '{"outcome":"cancelled"}', '',
      own_settlement(KEYS[1], 'cancelled', 'job_cancelled', now), now, inline_max)
    return {'cancelled'}
  end
  if remaining <= 0 then
    settle(keys, ARGV[1], 'expired', '{"outcome":"expired"}', '',
      own_settlement(KEYS[1], 'expired', 'deadline_exceeded', now), now, inline_max)
    return {'expired'}
  end
  -- Its reader has already seen the start of an answer: a second run could not continue it.
  if redis.call('XLEN', KEYS[3]) > 0 then
    settle(keys, ARGV[1], 'failed', '{"outcome":"failed","error":"stream_interrupted"}', '',
      own_settlement(KEYS[1], 'failed', 'stream_interrupted', now), now, inline_max)
    return {'interrupted'}
  end
  if deliveries >= tonumber(ARGV[5]) then
    redis.call('XADD', KEYS[5], '*', 'job', ARGV[1], 'reason', 'poison', 'attempts', f[7],
      'deliveries', deliveries, 'header', f[9])
    settle(keys, ARGV[1], 'failed', '{"outcome":"dead","error":"poison"}', '',
      own_settlement(KEYS[1], 'dead', 'poison', now), now, inline_max, ARGV[9])
    return {'dead'}
  end
  if fence == 0 and redis.call('INCRBY', KEYS[7], ARGV[10]) > tonumber(ARGV[11]) then
    redis.call('SET', KEYS[7], ARGV[11])
  end
  fence = fence + 1
  deliveries = deliveries + 1
  redis.call('HSET', KEYS[1], 'state', 'running', 'fence', fence, 'deliveries', deliveries,
    'holder', ARGV[3], 'consumer', ARGV[4])
  -- The lease runs from here: it may have been delivered long ago to a worker that was busy or frozen.
  if held[1] and held[1][3] > 100 then
    redis.call('XCLAIM', KEYS[2], GROUP, ARGV[4], 0, ARGV[2], 'JUSTID')
  end
end
return {'run', fence, f[9], f[10], tonumber(f[7]), deliveries, remaining, now - tonumber(f[6]),
  tonumber(f[12] or 0), tonumber(f[13] or 0), f[14] or ''}
