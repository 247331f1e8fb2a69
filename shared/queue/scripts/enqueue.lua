-- Accept a job once. Replayed or repeated with the same id: attaches to what is there.
-- KEYS: job, lane, backlog, and for a job that identical ones may join: the pointer to the first of them;
--       for one under an Idempotency-Key: the key's pointer
--       last, where the client counts its tries: the pointer to the job they stand for
-- ARGV: id, header, body, account, budget_ms, retain_ms, max_entries, reply channel, fingerprint,
--       token of the reader, '1' to keep the job without readers, '1' to store its body once it ended,
--       cost, window, cap of the tenant's jobs in flight, max_waiting of the tenant,
--       how many jobs its provider ends in 1,000 s (0 = unknown), jobs ahead in higher lanes,
--       ms that the call itself takes (0 = unknown), where the database keeps it ('' = nowhere),
--       ms that its Idempotency-Key stands for it ('' = it has none),
--       ms for which a later try may join ('' = tries are not counted), '1' if this is a later one
-- Returns {'queued'} | {'queued', position, wait_ms} | {'attached', state} | {'joined', id} | {'tried', id, state}
--       | {'conflict'} | {'forgotten'}
--       | {'full', entries} | {'tenant_full', waiting} | {'hopeless', wait_ms, '1' if of the tenant's own making}
local f = redis.call('HMGET', KEYS[1], 'state', 'print', 'reply', 'readers', 'forgotten')
if f[5] then
  return {'forgotten'}
end
if f[1] then
  if f[2] ~= ARGV[9] then
    return {'conflict'}
  end
  redis.call('HSET', KEYS[1], 'reply', with_item(f[3], ARGV[8]), 'readers', with_item(f[4], ARGV[10]))
  if ARGV[20] ~= '' and redis.call('HSETNX', KEYS[1], 'row', ARGV[20]) == 1 and TERMINAL[f[1]] then
    -- It ended before anybody wanted it kept.
    local ended = string.gsub(KEYS[1], 'job:[^:]*$', 'ended')
    redis.call('XADD', ended, '*', 'job', ARGV[1], 'keep', redis.call('HGET', KEYS[1], 'retain'))
    redis.call('PERSIST', KEYS[1])
    redis.call('PERSIST', (string.gsub(KEYS[1], 'job:([^:]*)$', 'events:%1')))
  end
  return {'attached', f[1]}
end
local now = now_ms()
local budget = tonumber(ARGV[5])
local tries = ARGV[22] ~= '' and KEYS[#KEYS]
local twins = ARGV[21] == '' and KEYS[4] ~= tries and KEYS[4]
if tries and ARGV[23] == '1' then
  local first = redis.call('GET', tries)
  if first then
    local l = redis.call('HMGET', first, 'state', 'reply', 'readers', 'cancel')
    -- What somebody waited for until its end was read: this client's first try never got here then.
    local unread = l[3] == '' or l[3] == ARGV[10]
    if l[1] and not l[4] and (not TERMINAL[l[1]] or (l[1] == 'succeeded' and unread)) then
      redis.call('HSET', first, 'reply', with_item(l[2], ARGV[8]), 'readers', with_item(l[3], ARGV[10]))
      if ARGV[11] ~= '' then
        redis.call('HSET', first, 'keep', ARGV[11])
      end
      return {'tried', string.match(first, '[^:]+$'), l[1]}
    end
  end
end
if twins then
  local first = redis.call('GET', twins)
  if first then
    local l = redis.call('HMGET', first, 'state', 'deadline', 'reply', 'readers', 'cancel')
    -- Not one that ends long before this caller's patience does.
    if l[1] and not TERMINAL[l[1]] and not l[5] and tonumber(l[2]) >= now + budget / 2 then
      redis.call('HSET', first, 'reply', with_item(l[3], ARGV[8]), 'readers', with_item(l[4], ARGV[10]))
      if ARGV[11] ~= '' then
        redis.call('HSET', first, 'keep', ARGV[11])
      end
      if tries then
        redis.call('SET', tries, first, 'PX', ARGV[22])
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
if ARGV[20] ~= '' then
  redis.call('HSET', KEYS[1], 'row', ARGV[20])
end
push(KEYS[1], ARGV[1], KEYS[2], KEYS[3], ARGV[4], tonumber(ARGV[13]), window, cap)
redis.call('PEXPIRE', KEYS[1], int(budget + tonumber(ARGV[6])))
if twins then
  redis.call('SET', twins, KEYS[1], 'PX', ARGV[5])
elseif ARGV[21] ~= '' and KEYS[4] then
  local claimed = redis.call('GET', KEYS[4])
  if not claimed or claimed == ARGV[1] then
    redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[21])
  end
end
if tries then
  redis.call('SET', tries, KEYS[1], 'PX', ARGV[22])
end
if position == 0 then
  return {'queued'}
end
return {'queued', position, int(wait_ms)}
