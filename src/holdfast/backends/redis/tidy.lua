-- A row of an index whose session is not there any more, or is another one of the same name: KEYS are the head and the index, ARGV the
-- member and the number it is listed with. Gives whether the row went.
if redis.call('HGET', KEYS[1], 'n') == ARGV[2] or redis.call('ZSCORE', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('ZREM', KEYS[2], ARGV[1])
