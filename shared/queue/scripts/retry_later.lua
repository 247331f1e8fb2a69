-- flags: allow-oom
-- Put a running job aside until it is due; frees the worker's slot.
-- KEYS: job, lane, delayed, retries
-- ARGV: id, fence, delay_ms, lane name, '1' when a call failed, what a retry takes from the retry budget,
--       retries allowed in any ten seconds beside it, most ms from when no call failed first, or '',
--       the call that failed (usage.py, Attempt), or ''
-- Returns 1 put aside (also when replayed), 0 refused, 2 its deadline comes first: finish it instead,
--       3 the fleet has no retry to spare, 4 it was put aside for long enough
local f = redis.call('HMGET', KEYS[1], 'state', 'fence', 'entry', 'deadline', 'deliveries', 'aside_since',
  'backlog', 'account', 'calls')
if f[2] ~= ARGV[2] then
  return 0
end
if f[1] == 'queued' and f[3] == '' then
  return 1
end
if f[1] ~= 'running' then
  return 0
end
local delay = tonumber(ARGV[3])
local due = now_ms() + delay
if due >= tonumber(f[4]) then
  return 2
end
if ARGV[5] == '1' then
  local price = tonumber(ARGV[6])
  if tonumber(redis.call('GET', KEYS[4]) or 0) >= price then
    redis.call('DECRBY', KEYS[4], price)
  else
    -- So that a broker with little to do can retry as well.
    local reserve = KEYS[4] .. ':reserve'
    local taken = redis.call('INCR', reserve)
    if taken == 1 then
      redis.call('PEXPIRE', reserve, 10000)
    end
    if taken > tonumber(ARGV[7]) then
      return 3
    end
  end
  redis.call('HINCRBY', KEYS[1], 'attempts', 1)
  redis.call('HINCRBY', KEYS[1], 'hop_attempts', 1)
else
  local since = tonumber(f[6] or due - delay)
  if ARGV[8] ~= '' then
    if due - since > tonumber(ARGV[8]) then
      return 4
    end
    redis.call('HSET', KEYS[1], 'aside_since', int(since))
  end
end
-- This delivery ended with its worker alive, so it does not count towards poison.
take_off(KEYS[1], KEYS[2], 'state', 'queued', 'holder', '', 'deliveries', math.max(tonumber(f[5]) - 1, 0))
if ARGV[9] and ARGV[9] ~= '' then
  redis.call('HSET', KEYS[1], 'calls', with_line(f[9], ARGV[9]))
end
if redis.call('ZADD', KEYS[3], int(due), ARGV[1] .. '|' .. ARGV[4]) == 1 and f[7] then
  count_aside(f[7], f[8], 1)
end
return 1
