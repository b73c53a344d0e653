-- Every command that writes, on a key of nobody's: a script that is refused in its midst leaves what it has written.
local key, other = KEYS[1], KEYS[2]
local call = redis.call
call('TIME')
call('SET', key, '1')
call('PEXPIRE', key, 60000)
call('PEXPIREAT', key, '99999999999999')
call('PERSIST', key)
call('RENAME', key, other)
call('UNLINK', other)
call('HSET', key, 'a', '1')
call('HDEL', key, 'a')
call('ZADD', key, 0, 'a', 0, 'b', 0, 'c')
call('ZREM', key, 'a')
call('ZREMRANGEBYLEX', key, '[b', '[b')
call('ZREMRANGEBYSCORE', key, '-inf', '+inf')
call('XADD', key, '1-1', 'a', '1')
call('UNLINK', key)
return 1
