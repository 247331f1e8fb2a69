-- flags: allow-oom
-- A reader is gone. Whether the job goes on without it is decided later, by cancel.
-- KEYS: job
-- ARGV: token of the reader
-- Returns how many readers are left; 0 when there is no such job
local readers = redis.call('HGET', KEYS[1], 'readers')
if not readers then
  return 0
end
local left = without_item(readers, ARGV[1])
redis.call('HSET', KEYS[1], 'readers', left)
return select(2, string.gsub(left, '[^,]+', ''))
