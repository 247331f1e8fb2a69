-- flags: allow-oom
-- Move delayed jobs that are due back into their lanes.
-- KEYS: delayed, then job, lane of each candidate in turn
-- ARGV: member of the delayed set and job id of each candidate in turn
-- Returns how many moved
local now = now_ms()
local moved = 0
for i = 2, #KEYS, 2 do
  local member, id = ARGV[i - 1], ARGV[i]
  local due = redis.call('ZSCORE', KEYS[1], member)
  if due and tonumber(due) <= now then
    redis.call('ZREM', KEYS[1], member)
    local f = redis.call('HMGET', KEYS[i], 'state', 'entry')
    if f[1] == 'queued' and f[2] == '' then
      redis.call('HSET', KEYS[i], 'entry', redis.call('XADD', KEYS[i + 1], '*', 'job', id))
      moved = moved + 1
    end
  end
end
return moved
