-- Which job an Idempotency-Key stands for: the first to ask decides.
-- KEYS: the key's pointer
-- ARGV: id of a job that would be new, id that it may take the place of ('' = none), ttl_ms
-- Returns the id of the job that the key stands for now
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[2] then
  return held
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
