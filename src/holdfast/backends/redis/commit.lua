-- One commit. Its author has judged it against what it took the session to be; if it is so, all of it is written, and otherwise
-- nothing, and the author is told what is so and judges again.
--
-- ARGV: id, whether to look for a repetition, the mark of the head it takes to be there ('' for none), the incarnation that it creates
-- ('' for none), for how long (milliseconds) the others wait for this author, who was too late again and again ('' otherwise), state keys with the versions it takes them to have; then what is written: steps, the answer's plan, the expiry.
-- Gives {0, head, mark, whether that incarnation was there before, versions of those keys, tombstones}, {1, answer, tombstones},
-- {2, head, mark, record, answer}, or {3} where it is another one's turn.

local DAY = 86400000

local function version_of(key)
  return call('ZSCORE', KEYS[VERSIONS], key) or '0'
end

-- --- steps: what is written ---

local steps = {}

-- Any command on one key.
steps['do'] = function(first, last)
  for i = first + 2, math.max(first + 2, last), STEP * 2 do
    call(ARGV[first], KEYS[tonumber(ARGV[first + 1])], unpack(ARGV, i, math.min(i + STEP * 2 - 1, last)))
  end
end

-- A value's end, which whoever knew the value will hear of: key, version.
steps['bury'] = function(first)
  if call('ZREM', KEYS[VERSIONS], ARGV[first]) == 1 then
    call('HDEL', KEYS[STATE], ARGV[first])
    call('ZADD', KEYS[TOMBS], ARGV[first + 1], ARGV[first])
  else
    call('ZADD', KEYS[TOMBS], 'XX', ARGV[first + 1], ARGV[first])
  end
end

-- Entries: version, the first one's seq, then kind, run and the rest of each.
steps['log'] = function(first, last)
  local seq = tonumber(ARGV[first + 1])
  for i = first + 2, last, 3 do
    call('XADD', KEYS[LOG], whole(seq) .. '-' .. ARGV[first], ARGV[i], ARGV[i + 1], '', ARGV[i + 2])
    if ARGV[i] ~= 'message' then
      call('ZADD', KEYS[KINDS], 0, ARGV[i] .. '\0' .. string.format('%016.0f', seq))
    end
    seq = seq + 1
  end
end

-- Entries of a run: run, first seq, last seq.
steps['run'] = function(first)
  local span = call('HGET', KEYS[RUNS], ARGV[first])
  local begin = span and string.match(span, '^%d+') or ARGV[first + 1]
  call('HSET', KEYS[RUNS], ARGV[first], begin .. ' ' .. ARGV[first + 2])
end

-- Hidden entries: first, last. Ranges that touch become one.
steps['hide'] = function(at)
  local first, last = tonumber(ARGV[at]), tonumber(ARGV[at + 1])
  local old = call('XRANGE', KEYS[LOG], whole(first), whole(last))
  for i = 1, #old do
    local kind = old[i][2][1]
    if kind ~= 'message' then
      call('ZREM', KEYS[KINDS], kind .. '\0' .. string.format('%016.0f', tonumber(string.match(old[i][1], '^%d+'))))
    end
  end
  while true do
    local range = call('ZRANGEBYSCORE', KEYS[HIDDEN], whole(first - 1), '+inf', 'LIMIT', 0, 1)[1]
    if not range then break end
    local its_first, its_last = string.match(range, '(%d+)-(%d+)')
    if tonumber(its_first) > last + 1 then break end
    first, last = math.min(first, tonumber(its_first)), math.max(last, tonumber(its_last))
    call('ZREM', KEYS[HIDDEN], range)
  end
  call('ZADD', KEYS[HIDDEN], whole(last), whole(first) .. '-' .. whole(last))
end

-- A blob: place, type, data, whether to keep what is there.
steps['blob'] = function(first)
  local place = ARGV[first]
  if ARGV[first + 3] == '1' and call('HEXISTS', KEYS[BLOBS], 't' .. place) == 1 then return end
  call('HSET', KEYS[BLOBS], 't' .. place, ARGV[first + 1], 'd' .. place, ARGV[first + 2])
  call('ZADD', KEYS[NAMES], 0, place)
end

-- Blobs from one place to another: first, last, as ranges of names are written.
steps['drop'] = function(first)
  local places = call('ZRANGEBYLEX', KEYS[NAMES], ARGV[first], ARGV[first + 1])
  for i = 1, #places do call('HDEL', KEYS[BLOBS], 't' .. places[i], 'd' .. places[i]) end
  call('ZREMRANGEBYLEX', KEYS[NAMES], ARGV[first], ARGV[first + 1])
end

-- The end of a life: its incarnation. What it held goes; its number stays for a week.
steps['end'] = function(first)
  call('UNLINK', unpack(KEYS, LOG, BOOK_1))
  call('HSET', KEYS[LIVES], ARGV[first], '')
  call('PEXPIRE', KEYS[LIVES], 7 * DAY)
end

-- A new session: the key of the last number given. Its number is the database's time, and greater than every one before it.
steps['number'] = function(first)
  local time = call('TIME')
  local last = KEYS[tonumber(ARGV[first])]
  local n = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), tonumber(call('GET', last) or 0) + 1)
  call('SET', last, whole(n))
  call('HSET', KEYS[HEAD], 'n', whole(n))
end

-- A row of an index: its key, the member.
steps['list'] = function(first)
  call('ZADD', KEYS[tonumber(ARGV[first])], call('HGET', KEYS[HEAD], 'n'), ARGV[first + 1])
end

-- What was copied before: the names of its log, kinds and runs become the session's.
steps['adopt'] = function(first, last)
  for i = first, last do
    local from = KEYS[tonumber(ARGV[i])]
    if call('EXISTS', from) == 1 then
      local to = KEYS[({ LOG, KINDS, RUNS })[i - first + 1]]
      call('RENAME', from, to)
      call('PERSIST', to)
    end
  end
end

-- --- expiry: the database forgets by itself ---

local function expire(time, incarnation, user)
  if time == '' then return end
  if time == 'never' then
    for i = HEAD, BOOK_1 do call('PERSIST', KEYS[i]) end
    return
  end
  call('HSET', KEYS[LIVES], incarnation, '', 'user', user)
  call('PEXPIREAT', KEYS[LIVES], whole(tonumber(time) + 7 * DAY))
  for i = HEAD, BOOK_1 do call('PEXPIREAT', KEYS[i], time) end
end

-- --- the commit ---

local id, look, taken, creates, patience = take(), take() == '1', take(), take(), take()
local found = call('HMGET', KEYS[HEAD], 'head', 'mark', 'floor')
local same = (found[2] or '') == taken
local versions = {}
for i = 1, number() do
  versions[i] = version_of(take())
  local wanted = take()
  same = same and versions[i] == wanted
end
local count = number()
local repeated = look and found[1] and (call('HGET', KEYS[BOOK_0], id) or call('HGET', KEYS[BOOK_1], id))
local lived = creates ~= '' and call('HEXISTS', KEYS[LIVES], creates) or 0
if not repeated and (not same or (lived == 1 and (taken == '' or string.sub(taken, 1, #creates + 1) ~= creates .. '.'))) then
  if patience ~= '' then call('SET', KEYS[TURN], id, 'NX', 'PX', patience) end
  return { 0, found[1] or '', found[2] or '', lived, versions, call('ZCARD', KEYS[TOMBS]) }
end
local turn = not repeated and call('GET', KEYS[TURN])
if turn and turn ~= id then return { 3 } end
for i = 1, count do
  local name, arguments = take(), number()
  local first = at + 1
  at = at + arguments
  if not repeated then steps[name](first, at) end
end
local wants = take() == '1'
if repeated then
  call('HSET', KEYS[HEAD], 'mark', found[2]) -- for a WAIT after this: it waits for what this connection wrote
  return { 2, found[1], found[2], repeated, wants and answer(tonumber(found[3])) or {} }
end
if turn then call('DEL', KEYS[TURN]) end
local answered = wants and answer(tonumber(call('HGET', KEYS[HEAD], 'floor'))) or {}
local buried = call('ZCARD', KEYS[TOMBS])
expire(take(), take(), take())
local channel = KEYS[#KEYS]
redis.pcall('SPUBLISH', channel, '1') -- nobody may be listening, and not everybody may publish: neither undoes the commit
return { 1, answered, buried }
