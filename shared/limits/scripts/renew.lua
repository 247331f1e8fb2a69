-- Calls still run: their holders are remembered on. Those forgotten already stay so.
-- KEYS: holders, holders of batch work; ARGV: ms until forgotten, test clock in ms or '', holders
local until_ms = now_ms(ARGV[2]) + tonumber(ARGV[1])
for i = 3, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', until_ms, ARGV[i])
  redis.call('ZADD', KEYS[2], 'XX', until_ms, ARGV[i])
end
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[1])
redis.call('PEXPIRE', KEYS[2], 2 * ARGV[1])
return 1
