-- Remove a consumer that holds nothing. XGROUP DELCONSUMER would drop what it holds.
-- KEYS: lane
-- ARGV: consumer
-- Returns 1 removed, 0 it still holds entries or is not there
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], GROUP)
for _, c in ipairs(consumers.err and {} or consumers) do
  -- c: 'name', its name, 'pending', how many, ...
  if c[2] == ARGV[1] and c[4] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[1])
    return 1
  end
end
return 0
