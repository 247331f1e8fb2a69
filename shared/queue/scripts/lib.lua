-- Put before every other script. A job is a hash; its fields:
--   header, body       the envelope, opaque here (header is JSON, read only when the script itself ends a job)
--   state              see shared/domain/job.py
--   fence              raised by each begin; whoever holds an older one is refused
--   entry              id of its entry in the lane, '' while delayed
--   attempts           calls a provider refused or failed, each followed by a retry
--   deliveries         times handed to a worker that did not give it back: its own deaths, at most
--   created, deadline  ms of Redis TIME; retain: ms to keep it once it ended
--   account, print     its owner; fingerprint of an idempotent request, or ''
--   reply, readers     channels of waiting api processes; tokens of their requests; comma separated
--   keep               '1' when the job goes on without readers
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
local function append_events(events, id, first, last, payload, channels, keep_ms)
  if tonumber(last_ordinal(events)) >= tonumber(last) then
    return
  end
  redis.call('XADD', events, last .. '-1', 'd', payload)
  if first == '1' then
    redis.call('PEXPIRE', events, keep_ms)
  end
  publish(channels, 'e' .. id .. '\n' .. first .. ' ' .. last .. '\n' .. payload)
end

-- Ends a job for good: result stored, ledger told, lane entry gone, waiters hinted.
local function settle(keys, id, state, head, body, settlement, now, inline_max)
  local f = redis.call('HMGET', keys.job, 'header', 'entry', 'reply', 'retain')
  local last = last_ordinal(keys.events)
  redis.call('HSET', keys.job, 'state', state, 'result_head', head, 'result_body', body,
    'last', last, 'finished', int(now), 'entry', '')
  drop_entry(keys.lane, f[2])
  redis.call('XADD', keys.usage, '*', 'job', id, 'header', f[1], 'outcome', settlement)
  redis.call('PEXPIRE', keys.job, f[4])
  redis.call('PEXPIRE', keys.events, f[4])
  publish(f[3], result_frame(id, last, head, body, inline_max))
end

-- The settlement of a job that a script ends by itself (shared/domain/usage.py, Settlement).
local function own_settlement(job, outcome, code, now)
  local f = redis.call('HMGET', job, 'header', 'created', 'attempts', 'deliveries')
  local target = cjson.decode(f[1])['plan'][1]
  return cjson.encode({
    outcome = outcome, provider = target[1], model = target[2],
    ['in'] = 0, out = 0, cached = 0, reasoning = 0, estimated = false, cost = 0,
    queue_ms = now - tonumber(f[2]), provider_ms = 0, ttft_ms = cjson.null,
    attempts = tonumber(f[3]), deliveries = tonumber(f[4]), error = code,
  })
end
