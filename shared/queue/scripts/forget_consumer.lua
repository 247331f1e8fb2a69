-- Remove a consumer that holds nothing. XGROUP DELCONSUMER would drop what it holds.
-- KEYS: lane
-- ARGV: consumer
-- Returns 1 removed, 0 it still holds entries or is not there
for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], GROUP)) do
  if c[2] == ARGV[1] and c[6] == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], GROUP, ARGV[1])
    return 1
  end
end
return 0
