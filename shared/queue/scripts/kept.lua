-- flags: allow-oom
-- The database has what became of a job: here it may go when its time is over.
-- KEYS: job, its events, the stream of ended jobs
-- ARGV: entry in that stream ('' = none), ms to keep it here
-- Returns 1
if redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if ARGV[1] ~= '' then
  redis.call('XDEL', KEYS[3], ARGV[1])
end
return 1
