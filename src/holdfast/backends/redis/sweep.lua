-- One session whose time is over, as its row among the expiring says: KEYS are its own, then expiring, everyone, waiting and, where it
-- is known, its user's. ARGV: the member, the row's score. Gives whether it went; a row that is wrong is put right.
local HEAD, BOOK_1, EXPIRING = 1, 12, 15
local call = redis.call
local member, score = ARGV[1], ARGV[2]
if call('ZSCORE', KEYS[EXPIRING], member) ~= score then return 0 end
local expires = call('HGET', KEYS[HEAD], 'expires')
if expires and expires ~= score then
  if expires == '' then call('ZREM', KEYS[EXPIRING], member) else call('ZADD', KEYS[EXPIRING], expires, member) end
  return 0
end
call('UNLINK', unpack(KEYS, HEAD, BOOK_1))
for i = EXPIRING, #KEYS do call('ZREM', KEYS[i], member) end
return 1
