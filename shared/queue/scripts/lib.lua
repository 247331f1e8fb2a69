-- Put before every other script. A job is a hash; its fields:
--   header, body       the envelope, opaque here (header is JSON, read only when the script itself ends a job)
--   state              see shared/domain/job.py
--   fence              raised by each begin; whoever holds an older one is refused
--   entry              id of its entry in the lane, '' while delayed or in a backlog
--   backlog            key of the backlog it waits in, or would: a zset of job keys by start tag, with
--                      ':tenants' (virtual time and tags), ':parked' and ':flying' beside it
--   cost               its share of its tenant's turn: estimated tokens
--   flying             '1' while it counts against its tenant's cap
--   hop, hop_attempts  how many targets of its plan it left behind; failed calls at the one it is at
--   failures           why it left each of these, a line each
--   calls              calls to providers that are over and did not end it, a line each (usage.py, Attempt)
--   attempts           calls a provider refused or failed, each followed by a retry or a move
--   aside_since        when it was first put aside at this target without a call having failed (ms)
--   deliveries         times handed to a worker that did not give it back: its own deaths, at most
--   created, deadline  ms of Redis TIME; retain: ms to keep it once it ended
--   account, print     its owner; fingerprint of an idempotent request, or ''
--   reply, readers     channels of waiting api processes; tokens of their requests; comma separated
--   keep               '1' when the job goes on without readers
--   store              '1' when its body is kept once it ended
--   forgotten          '1', and nothing else, of one removed at its owner's wish
--   row                where the database keeps what becomes of it; such a job stays until it is kept there
--   holder             token of the delivery that runs it; consumer: that worker's name
--   cancel             '1' once a running job was asked to stop
--   result_head, result_body, last, finished    how it ended; last: ordinal of its last stream event
local GROUP = 'workers'
local TERMINAL = {succeeded = true, failed = true, cancelled = true, expired = true}

local function now_ms()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function int(n)
  return string.format('%.0f', n)
end

local function publish(channels, message)
  for channel in string.gmatch(channels, '[^,]+') do
    redis.call('PUBLISH', channel, message)
  end
end

-- Result frame: r<job>\n<last>\n<head>\n<body>; R when the body was too large and must be fetched.
local function result_frame(id, last, head, body, inline_max)
  if #body > inline_max then
    return 'R' .. id .. '\n' .. last .. '\n' .. head .. '\n'
  end
  return 'r' .. id .. '\n' .. last .. '\n' .. head .. '\n' .. body
end

-- Comma-separated lists: adding what is there and removing what is not change nothing.
local function with_item(list, item)
  if item == '' or string.find(',' .. list .. ',', ',' .. item .. ',', 1, true) then
    return list
  end
  return list == '' and item or (list .. ',' .. item)
end

local function without_item(list, item)
  local kept = {}
  for one in string.gmatch(list, '[^,]+') do
    if one ~= item then
      kept[#kept + 1] = one
    end
  end
  return table.concat(kept, ',')
end

local function with_line(lines, line)
  return lines and (lines .. '\n' .. line) or line
end

local function drop_entry(lane, entry)
  if entry and entry ~= '' then
    redis.call('XACK', lane, GROUP, entry)
    redis.call('XDEL', lane, entry)
  end
end

local function last_ordinal(events)
  local top = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)
  if top[1] then
    return string.match(top[1][1], '^%d+')
  end
  return '0'
end

-- Adds stream events first..last to the log, once, and tells the readers.
-- Event frame: e<job>\n<first> <last>\n<a line each>; E when they are too large and must be fetched.
local function append_events(events, id, first, last, payload, channels, keep_ms, inline_max)
  if tonumber(last_ordinal(events)) >= tonumber(last) then
    return
  end
  redis.call('XADD', events, last .. '-1', 'd', payload)
  if first == '1' then
    redis.call('PEXPIRE', events, keep_ms)
  end
  if #payload > inline_max then
    publish(channels, 'E' .. id .. '\n' .. first .. ' ' .. last)
  else
    publish(channels, 'e' .. id .. '\n' .. first .. ' ' .. last .. '\n' .. payload)
  end
end

-- Jobs in a lane that no worker has; exact only up to `window`, as nobody needs to know more.
local function undelivered(lane, window)
  local entries = redis.call('XLEN', lane)
  if entries < window then
    return entries
  end
  local pending = redis.pcall('XPENDING', lane, GROUP)
  return entries - (pending.err and 0 or pending[1])
end

local function to_lane(job, id, lane, backlog, account, cap)
  redis.call('HSET', job, 'entry', redis.call('XADD', lane, '*', 'job', id))
  if cap > 0 then
    redis.call('HINCRBY', backlog .. ':flying', account, 1)
    redis.call('HSET', job, 'flying', '1')
  end
end

local function is_capped(backlog, account, cap)
  return cap > 0 and tonumber(redis.call('HGET', backlog .. ':flying', account) or 0) >= cap
end

-- Start-time fair queueing over tenants: a job's start tag is its tenant's last finish tag, or the
-- virtual time where the tenant was idle; its finish tag is that plus its cost. Smallest start first.
-- Source: P. Goyal et al., "Start-time Fair Queueing", SIGCOMM 1996.
local function to_backlog(job, backlog, account, cost)
  local tenants = backlog .. ':tenants'
  local tags = redis.call('HMGET', tenants, 'now', 'f:' .. account)
  local start = math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))
  redis.call('HSET', tenants, 'f:' .. account, int(start + cost))
  if redis.call('HINCRBY', tenants, 'n:' .. account, 1) == 1 then
    redis.call('HINCRBY', tenants, 'active', 1)
  end
  redis.call('HSET', job, 'entry', '')
  redis.call('ZADD', backlog, int(start), job)
end

local function count_out(backlog, account)
  local tenants = backlog .. ':tenants'
  if redis.call('EXISTS', backlog) == 0 then
    -- The busy period is over: all tags are equal again.
    redis.call('DEL', tenants)
    return
  end
  -- Of a job that vanished nobody knows the tenant: its count stays until the busy period is over.
  local left = redis.call('HEXISTS', tenants, 'n:' .. account) == 1
    and redis.call('HINCRBY', tenants, 'n:' .. account, -1)
  if left and left <= 0 then
    redis.call('HDEL', tenants, 'n:' .. account)
    redis.call('HINCRBY', tenants, 'active', -1)
  end
end

-- Fills the lane from its backlog while it holds fewer than `window` jobs that no worker has.
local function refill(lane, backlog, window, cap)
  if redis.call('EXISTS', backlog) == 0 then
    return
  end
  local room = window - undelivered(lane, window)
  for _ = 1, 1000 do
    if room <= 0 then
      return
    end
    local top = redis.call('ZPOPMIN', backlog)
    if not top[1] then
      return
    end
    local f = redis.call('HMGET', top[1], 'state', 'entry', 'account', 'backlog')
    redis.call('HSET', backlog .. ':tenants', 'now', top[2])
    count_out(backlog, f[3] or '')
    if f[1] == 'queued' and f[2] == '' and f[4] == backlog then
      if is_capped(backlog, f[3], cap) then
        local place = f[3] .. '|' .. string.format('%020.0f', top[2]) .. '|' .. top[1]
        redis.call('ZADD', backlog .. ':parked', 0, place)
        redis.call('HSET', top[1], 'parked', place)
      else
        to_lane(top[1], string.match(top[1], '[^:]+$'), lane, backlog, f[3], cap)
        room = room - 1
      end
    end
  end
end

-- Into the lane when it is short and nothing waits behind it, else into the backlog.
local function push(job, id, lane, backlog, account, cost, window, cap)
  if redis.call('EXISTS', backlog) == 0 and undelivered(lane, window) < window
    and not is_capped(backlog, account, cap) then
    to_lane(job, id, lane, backlog, account, cap)
  else
    to_backlog(job, backlog, account, cost)
    refill(lane, backlog, window, cap)
  end
end

-- Jobs put aside until they are due, in all (field '') and by tenant: they come back to this lane.
local function count_aside(backlog, account, by)
  local aside = backlog .. ':aside'
  if redis.call('HINCRBY', aside, '', by) <= 0 then
    redis.call('DEL', aside)
  elseif account and redis.call('HINCRBY', aside, account, by) <= 0 then
    redis.call('HDEL', aside, account)
  end
end

-- The jobs of one tenant among those parked, as bounds of their names.
local function names_of(account)
  return '[' .. account .. '|', '[' .. account .. '|\255'
end

-- A tenant at its cap may have one job more in the lane: the first that waits for it.
local function unpark(backlog, account)
  local parked = backlog .. ':parked'
  local from, to = names_of(account)
  for _ = 1, 1000 do
    local first = redis.call('ZRANGEBYLEX', parked, from, to, 'LIMIT', 0, 1)[1]
    if not first then
      return
    end
    redis.call('ZREM', parked, first)
    local job = string.match(first, '|%d+|(.+)$')
    local waits = redis.call('HMGET', job, 'state', 'entry', 'backlog')
    if waits[1] == 'queued' and waits[2] == '' and waits[3] == backlog then
      -- Not the lane of whoever made room: one that moved may be ended by who knows only where it began.
      local lane = string.gsub(backlog, ':backlog:', ':lane:', 1)
      to_lane(job, string.match(job, '[^:]+$'), lane, backlog, account, 1)
      return
    end
  end
end

-- A job leaves its lane or its backlog, for good or for a while, and `...` are its fields from then on.
-- They are written first: where memory is short, Redis before 7.0 refuses a script at its first write
-- that may take more, and whatever came before that would have been done for nothing.
local function take_off(job, lane, ...)
  local f = redis.call('HMGET', job, 'entry', 'backlog', 'flying', 'account', 'parked')
  redis.call('HSET', job, 'entry', '', ...)
  drop_entry(lane, f[1])
  local backlog = f[2]
  if not backlog then
    return
  end
  if f[1] == '' and redis.call('ZREM', backlog, job) == 1 then
    count_out(backlog, f[4])
  end
  if f[5] then
    redis.call('ZREM', backlog .. ':parked', f[5])
    redis.call('HDEL', job, 'parked')
  end
  if f[3] then
    redis.call('HDEL', job, 'flying')
    if redis.call('HINCRBY', backlog .. ':flying', f[4], -1) <= 0 then
      redis.call('HDEL', backlog .. ':flying', f[4])
    end
    unpark(backlog, f[4])
  end
end

-- Ends a job for good: result stored, ledger told, lane entry gone, waiters hinted.
-- `keep_body_ms`: how long it can be run again, where it is set aside.
local function settle(keys, id, state, head, body, settlement, now, inline_max, keep_body_ms)
  local f = redis.call('HMGET', keys.job, 'header', 'reply', 'retain', 'store', 'calls', 'row')
  local last = last_ordinal(keys.events)
  take_off(keys.job, keys.lane, 'state', state, 'result_head', head, 'result_body', body,
    'last', last, 'finished', int(now))
  if not f[4] and not keep_body_ms then
    redis.call('HDEL', keys.job, 'body')
  end
  if f[5] then
    redis.call('XADD', keys.usage, '*', 'job', id, 'header', f[1], 'outcome', settlement, 'calls', f[5])
  else
    redis.call('XADD', keys.usage, '*', 'job', id, 'header', f[1], 'outcome', settlement)
  end
  if f[6] then
    -- Its result is here alone until the database has it, however long that takes.
    local ended = string.gsub(keys.usage, 'usage$', 'ended')
    redis.call('XADD', ended, '*', 'job', id, 'keep', keep_body_ms or f[3])
    redis.call('PERSIST', keys.job)
    redis.call('PERSIST', keys.events)
  else
    redis.call('PEXPIRE', keys.job, keep_body_ms or f[3])
    redis.call('PEXPIRE', keys.events, f[3])
  end
  publish(f[2], result_frame(id, last, head, body, inline_max))
end

-- The settlement of a job that a script ends by itself (shared/domain/usage.py, Settlement).
local function own_settlement(job, outcome, code, now)
  local f = redis.call('HMGET', job, 'header', 'created', 'attempts', 'deliveries', 'hop')
  local target = cjson.decode(f[1])['plan'][1 + tonumber(f[5] or 0)]
  return cjson.encode({
    outcome = outcome, provider = target[1], model = target[2],
    ['in'] = 0, out = 0, cached = 0, reasoning = 0, estimated = false, cost = 0,
    queue_ms = now - tonumber(f[2]), provider_ms = 0, ttft_ms = cjson.null,
    attempts = tonumber(f[3]), deliveries = tonumber(f[4]), error = code,
  })
end
