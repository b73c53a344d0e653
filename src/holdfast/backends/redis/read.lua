-- The answer to one plan: {head, mark, answer}, or nothing where there is no session.
local found = call('HMGET', KEYS[HEAD], 'head', 'mark', 'floor')
if not found[1] then return {} end
return { found[1], found[2], answer(tonumber(found[3])) }
