-- Lends a part of one slot of one key to one region, at once or not at all.
--
-- KEYS[1]  the slot: a hash with the cells `total`, `lent:REGION` and `seq:REGION`
-- ARGV     region, sequence, held, wanted, quota, lifetime in ms, and in ms of civil time until when that is and from
--          when on anything is lent of the slot
--
-- Answers {lent to the region in all, lent to all regions, the region's highest sequence before}. A sequence that was
-- answered before is answered alike, so a repetition lends nothing twice. `held` is what the region knows that it was
-- lent: a server that forgot it in a failover learns it here, before it lends any more. The slot is kept until it is over
-- by the clock of the asker and by the server's own: by one that is ahead it would be forgotten before it comes. One that
-- comes later than it is lent from is of a clock that is far ahead: nothing is lent of it, and nothing kept until it comes.
local slot, region = KEYS[1], ARGV[1]
local sequence, held, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local quota, lifetime = tonumber(ARGV[5]), tonumber(ARGV[6])
local kept_until, lent_from = tonumber(ARGV[7]), tonumber(ARGV[8])

local cells = redis.call('HMGET', slot, 'total', 'lent:' .. region, 'seq:' .. region)
local total = tonumber(cells[1] or '0')
local lent = tonumber(cells[2] or '0')
local before = tonumber(cells[3] or '0')
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if now < lent_from then
  return { lent, total, before }
end
if held > lent then
  total = total + held - lent
  lent = held
elseif before >= sequence then
  return { lent, total, before }
end

local chunk = math.max(0, math.min(wanted, quota - total))
redis.call('HSET', slot, 'total', total + chunk, 'lent:' .. region, lent + chunk, 'seq:' .. region, ARGV[2])
redis.call('PEXPIRE', slot, math.max(lifetime, kept_until - now))
return { lent + chunk, total + chunk, before }
