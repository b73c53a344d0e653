-- What a plan answers, from this moment of the session. Shared by read.lua and commit.lua, in front of which it is put.
-- KEYS as in layout.py. A plan is read from ARGV at `at`.

local HEAD, LOG, HIDDEN, KINDS, RUNS, STATE, VERSIONS, TOMBS, BLOBS, NAMES, BOOK_0, BOOK_1, LIVES, TURN = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14
local MOST = 9007199254740991
local STEP = 1000 -- arguments of one call: Lua's stack bears some thousands
local call = redis.call
local at = 0

local function take()
  at = at + 1
  return ARGV[at]
end

local function number()
  at = at + 1
  return tonumber(ARGV[at])
end

local function whole(n)
  return string.format('%.0f', n)
end

-- --- entries ---

-- The next stretch of visible entries between low and high, from the end that is asked for; nil when there is none.
local function stretch(low, high, newest)
  if newest then
    local over = call('ZRANGEBYSCORE', KEYS[HIDDEN], whole(high), '+inf', 'LIMIT', 0, 1)[1]
    if over then
      high = math.min(high, tonumber(string.match(over, '^%d+')) - 1)
    end
    if high < low then return nil end
    local below = call('ZREVRANGEBYSCORE', KEYS[HIDDEN], whole(high), '-inf', 'LIMIT', 0, 1)[1]
    return below and math.max(low, tonumber(string.match(below, '%d+$')) + 1) or low, high
  end
  local over = call('ZRANGEBYSCORE', KEYS[HIDDEN], whole(low), '+inf', 'LIMIT', 0, 2)
  if over[1] and tonumber(string.match(over[1], '^%d+')) <= low then
    low = tonumber(string.match(over[1], '%d+$')) + 1
    over[1] = over[2]
  end
  if high < low then return nil end
  return low, over[1] and math.min(high, tonumber(string.match(over[1], '^%d+')) - 1) or high
end

-- Adds what fits of one stretch to `found`; whether the window is full.
local function gather(found, low, high, limit, newest, kinds, run)
  while low <= high do
    local wanted = limit and limit - #found or STEP
    if wanted <= 0 then return true end
    local count = (kinds or run) and math.max(wanted, 64) or wanted
    local rows
    if newest then
      rows = call('XREVRANGE', KEYS[LOG], whole(high), whole(low), 'COUNT', count)
    else
      rows = call('XRANGE', KEYS[LOG], whole(low), whole(high), 'COUNT', count)
    end
    for i = 1, #rows do
      local fields = rows[i][2]
      if (not kinds or kinds[fields[1]]) and (not run or fields[2] == run) then
        found[#found + 1] = rows[i]
        if #found == limit then return true end
      end
    end
    if #rows < count then return false end
    local last = tonumber(string.match(rows[#rows][1], '^%d+'))
    if newest then high = last - 1 else low = last + 1 end
  end
  return false
end

-- Kinds that are rare have an index: nothing is read that isn't in the window.
local function gather_rare(found, low, high, limit, newest, kinds)
  local seqs = {}
  for i = 1, #kinds do
    local first, last = '[' .. kinds[i] .. '\0' .. string.format('%016.0f', low), '[' .. kinds[i] .. '\0' .. string.format('%016.0f', high)
    local from = #kinds[i] + 2
    local names
    if newest then
      names = call('ZREVRANGEBYLEX', KEYS[KINDS], last, first, 'LIMIT', 0, limit or -1)
    else
      names = call('ZRANGEBYLEX', KEYS[KINDS], first, last, 'LIMIT', 0, limit or -1)
    end
    for j = 1, #names do seqs[#seqs + 1] = tonumber(string.sub(names[j], from)) end
  end
  if #kinds > 1 then
    table.sort(seqs, function(a, b) if newest then return a > b end return a < b end)
  end
  for i = 1, math.min(#seqs, limit or #seqs) do
    found[i] = call('XRANGE', KEYS[LOG], whole(seqs[i]), whole(seqs[i]))[1]
  end
end

local function entries()
  local after, before, limit, newest, hidden, run, rare = number(), number(), number(), take() == '1', take() == '1', take(), take() == '1'
  local low, high = math.max(after, 0) + 1, before >= 0 and before - 1 or MOST
  if limit < 0 then limit = nil end
  local kinds
  local count, list = number(), {}
  for i = 1, count do
    list[i] = take()
    kinds = kinds or {}
    kinds[list[i]] = true
  end
  local found = {}
  if run == '' then
    run = nil
  else
    local span = call('HGET', KEYS[RUNS], run)
    if not span then return found end
    local first, last = string.match(span, '(%d+) (%d+)')
    low, high = math.max(low, tonumber(first)), math.min(high, tonumber(last))
  end
  if limit == 0 or high < low then return found end
  if rare and not hidden then
    gather_rare(found, low, high, limit, newest, list)
    return found
  end
  if hidden or call('EXISTS', KEYS[HIDDEN]) == 0 then
    gather(found, low, high, limit, newest, kinds, run)
    return found
  end
  while true do
    local bottom, top = stretch(low, high, newest)
    if not bottom or gather(found, bottom, top, limit, newest, kinds, run) then return found end
    if newest then high = bottom - 1 else low = top + 1 end
  end
end

-- --- state ---

local function values(names)
  local found = {}
  for i = 1, #names, STEP do
    local last = math.min(i + STEP - 1, #names)
    local some = call('HMGET', KEYS[STATE], unpack(names, i, last))
    for j = 1, #some do
      found[#found + 1] = names[i + j - 1]
      found[#found + 1] = some[j]
    end
  end
  return found
end

local function state(since, floor)
  if since <= floor then
    return { 1, call('HGETALL', KEYS[STATE]), {} }
  end
  local changed = call('ZRANGEBYSCORE', KEYS[VERSIONS], '(' .. whole(since), '+inf')
  return { 0, values(changed), call('ZRANGEBYSCORE', KEYS[TOMBS], '(' .. whole(since), '+inf', 'WITHSCORES') }
end

-- --- blobs ---

local function contents(places, data)
  local found = {}
  for i = 1, #places do
    local place = places[i]
    local kind = call('HGET', KEYS[BLOBS], 't' .. place)
    if kind then
      found[#found + 1] = place
      found[#found + 1] = kind
      if data then found[#found + 1] = call('HGET', KEYS[BLOBS], 'd' .. place) end
    end
  end
  return found
end

-- Places of every namespace whose key is one of `keys`, or begins with `prefix`.
local function anywhere(prefix, keys)
  local found = {}
  local all = call('ZRANGE', KEYS[NAMES], 0, -1)
  for i = 1, #all do
    local key = string.sub(all[i], string.find(all[i], '\0', 1, true) + 1)
    if keys and keys[key] or not keys and string.sub(key, 1, #prefix) == prefix then found[#found + 1] = all[i] end
  end
  return found
end

local function blobs()
  local how, data = take(), take() == '1'
  if how == 'range' then
    local first, last = take(), take()
    return contents(call('ZRANGEBYLEX', KEYS[NAMES], first, last), data)
  end
  local prefix = how == 'prefix' and take() or nil
  local list, set = {}, {}
  if not prefix then
    for i = 1, number() do
      list[i] = take()
      set[list[i]] = true
    end
  end
  if how == 'keys' then return contents(list, data) end
  return contents(anywhere(prefix, not prefix and set or nil), data)
end

-- {state, entries, hidden ranges, blobs, ...}: each an empty list where it was not asked for.
local function answer(floor)
  local found = { {}, {}, {}, {} }
  local since = take()
  if since ~= '' then found[1] = state(tonumber(since), floor) end
  if take() == '1' then
    found[2] = entries()
    if take() == '1' then found[3] = call('ZRANGE', KEYS[HIDDEN], 0, -1) end
  end
  for i = 1, number() do found[4][i] = blobs() end
  return found
end
