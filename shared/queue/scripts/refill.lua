-- flags: allow-oom
-- Fill a lane from its backlog, should nothing that begins do it.
-- KEYS: lane, backlog
-- ARGV: window, cap
-- Returns how many wait in the backlog
if redis.call('XLEN', KEYS[1]) == 0 then
  -- Nothing is in flight here, whatever a job that vanished left counted.
  redis.call('DEL', KEYS[2] .. ':flying')
  for _, parked in ipairs(redis.call('ZRANGE', KEYS[2] .. ':parked', 0, 99)) do
    redis.call('ZREM', KEYS[2] .. ':parked', parked)
    local account, start, job = string.match(parked, '^(.-)|(%d+)|(.+)$')
    if redis.call('HINCRBY', KEYS[2] .. ':tenants', 'n:' .. account, 1) == 1 then
      redis.call('HINCRBY', KEYS[2] .. ':tenants', 'active', 1)
    end
    redis.call('ZADD', KEYS[2], tonumber(start), job)
  end
end
refill(KEYS[1], KEYS[2], tonumber(ARGV[1]), tonumber(ARGV[2]))
return redis.call('ZCARD', KEYS[2])
