-- flags: allow-oom
-- Move delayed jobs that are due back into their lanes.
-- KEYS: delayed, then job, lane, backlog of each candidate in turn
-- ARGV: window, cap, then member of the delayed set and job id of each candidate in turn
-- Returns how many moved
local now = now_ms()
local moved = 0
local window, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 2, #KEYS, 3 do
  local at = 3 + (i - 2) / 3 * 2
  local member, id = ARGV[at], ARGV[at + 1]
  local due = redis.call('ZSCORE', KEYS[1], member)
  if due and tonumber(due) <= now then
    redis.call('ZREM', KEYS[1], member)
    local f = redis.call('HMGET', KEYS[i], 'state', 'entry', 'account', 'cost')
    count_aside(KEYS[i + 2], f[3], -1)
    if f[1] == 'queued' and f[2] == '' then
      redis.call('HSET', KEYS[i], 'backlog', KEYS[i + 2])
      push(KEYS[i], id, KEYS[i + 1], KEYS[i + 2], f[3], tonumber(f[4] or 1), window, cap)
      moved = moved + 1
    end
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  -- Whatever an older release counted in and did not count out.
  for i = 4, #KEYS, 3 do
    redis.call('DEL', KEYS[i] .. ':aside')
  end
end
return moved
