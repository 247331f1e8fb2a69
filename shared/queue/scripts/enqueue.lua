-- Accept a job once. Replayed or repeated with the same id: attaches to what is there.
-- KEYS: job, lane, backlog, and for a job that identical ones may join: the pointer to the first of them
-- ARGV: id, header, body, account, budget_ms, retain_ms, max_entries, reply channel, fingerprint,
--       token of the reader, '1' to keep the job without readers, '1' to store its body once it ended,
--       cost, window, cap of the tenant's jobs in flight, max_waiting of the tenant,
--       how many jobs its provider ends in 1,000 s (0 = unknown), jobs ahead in higher lanes,
--       ms that the call itself takes (0 = unknown)
-- Returns {'queued'} | {'queued', position, wait_ms} | {'attached', state} | {'joined', id} | {'conflict'}
--       | {'full', entries} | {'tenant_full', waiting} | {'hopeless', wait_ms, '1' if of the tenant's own making}
local f = redis.call('HMGET', KEYS[1], 'state', 'print', 'reply', 'readers')
if f[1] then
  if f[2] ~= ARGV[9] then
    return {'conflict'}
  end
  redis.call('HSET', KEYS[1], 'reply', with_item(f[3], ARGV[8]), 'readers', with_item(f[4], ARGV[10]))
  return {'attached', f[1]}
end
local now = now_ms()
local budget = tonumber(ARGV[5])
if KEYS[4] then
  local first = redis.call('GET', KEYS[4])
  if first then
    local l = redis.call('HMGET', first, 'state', 'deadline', 'reply', 'readers', 'cancel')
    -- Not one that ends long before this caller's patience does.
    if l[1] and not TERMINAL[l[1]] and not l[5] and tonumber(l[2]) >= now + budget / 2 then
      redis.call('HSET', first, 'reply', with_item(l[3], ARGV[8]), 'readers', with_item(l[4], ARGV[10]))
      if ARGV[11] ~= '' then
        redis.call('HSET', first, 'keep', ARGV[11])
      end
      return {'joined', string.match(first, '[^:]+$')}
    end
  end
end
local position, wait_ms = 0, 0
local window, cap, rate = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[17])
local entries = redis.call('XLEN', KEYS[2])
local waiting = redis.call('ZCARD', KEYS[3])
local held = (waiting > 0 or cap > 0) and redis.call('ZCARD', KEYS[3] .. ':parked') or 0
local aside = redis.call('HMGET', KEYS[3] .. ':aside', '', ARGV[4])
entries = entries + waiting + held + tonumber(aside[1] or 0)
if entries >= tonumber(ARGV[7]) then
  return {'full', entries}
end
if waiting + held > 0 or aside[2] then
  local t = redis.call('HMGET', KEYS[3] .. ':tenants', 'n:' .. ARGV[4], 'active')
  local mine, active = tonumber(t[1] or 0), tonumber(t[2] or 0)
  local parked = held > 0 and redis.call('ZLEXCOUNT', KEYS[3] .. ':parked', names_of(ARGV[4])) or 0
  local in_all = mine + parked + tonumber(aside[2] or 0)
  if in_all >= tonumber(ARGV[16]) then
    return {'tenant_full', in_all}
  end
  if waiting > 0 or is_capped(KEYS[3], ARGV[4], cap) then
    local ahead = tonumber(ARGV[18]) + undelivered(KEYS[2], window)
    local others = mine > 0 and active or active + 1
    position = ahead + parked + math.min(waiting, mine * others) + 1
    if rate > 0 then
      local call_ms = tonumber(ARGV[19])
      wait_ms = position * 1000000 / rate
      if parked > 0 and cap > 0 then
        -- They end no faster than as many at once can.
        wait_ms = math.max(wait_ms, (parked + 1) * call_ms / cap)
      end
      -- Calls differ: one that mostly takes longer than this caller waits may still be tried. And
      -- estimates are off by a tenth or so: an early refusal is better than a late one.
      local most = 0.9 * (budget - math.min(call_ms, budget / 2))
      if wait_ms > most then
        local alone_ms = (ahead + 1) * 1000000 / rate
        return {'hopeless', int(wait_ms + budget - most), alone_ms <= most and '1' or ''}
      end
    end
  end
end
redis.call('HSET', KEYS[1],
  'header', ARGV[2], 'body', ARGV[3], 'account', ARGV[4], 'state', 'queued', 'fence', 0,
  'attempts', 0, 'deliveries', 0, 'created', int(now), 'backlog', KEYS[3], 'cost', ARGV[13],
  'deadline', int(now + budget), 'retain', ARGV[6], 'reply', ARGV[8],
  'readers', ARGV[10], 'keep', ARGV[11], 'print', ARGV[9])
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], 'store', '1')
end
push(KEYS[1], ARGV[1], KEYS[2], KEYS[3], ARGV[4], tonumber(ARGV[13]), window, cap)
redis.call('PEXPIRE', KEYS[1], int(budget + tonumber(ARGV[6])))
if KEYS[4] then
  redis.call('SET', KEYS[4], KEYS[1], 'PX', ARGV[5])
end
if position == 0 then
  return {'queued'}
end
return {'queued', position, int(wait_ms)}
