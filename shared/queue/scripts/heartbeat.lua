-- Renew the leases of one worker, all in one call.
-- KEYS: job, lane of each job in turn
-- ARGV: consumer, then id of the entry and fence of each job in turn
-- Returns one number a job: 1 held, 0 lost, 2 held but asked to stop
local answers = {}
for i = 1, #KEYS, 2 do
  local entry, fence = ARGV[i + 1], ARGV[i + 2]
  local f = redis.call('HMGET', KEYS[i], 'state', 'fence', 'entry', 'cancel')
  if f[1] ~= 'running' or f[2] ~= fence or f[3] ~= entry then
    answers[#answers + 1] = 0
  else
    redis.call('XCLAIM', KEYS[i + 1], GROUP, ARGV[1], 0, entry, 'JUSTID')
    answers[#answers + 1] = f[4] and 2 or 1
  end
end
return answers
