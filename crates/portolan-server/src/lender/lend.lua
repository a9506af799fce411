-- Lends a part of one slot of one key to one region, at once or not at all.
--
-- KEYS[1]  the slot: a hash with the cells `total`, `lent:REGION` and `seq:REGION`
-- ARGV     region, sequence, held, wanted, quota, lifetime in ms, and until when that is, in ms of civil time
--
-- Answers {lent to the region in all, lent to all regions, the region's highest sequence before}. A sequence that was
-- answered before is answered alike, so a repetition lends nothing twice. `held` is what the region knows that it was
-- lent: a server that forgot it in a failover learns it here, before it lends any more. The slot is kept until it is over
-- by the clock of the asker and by the server's own: by one that is ahead it would be forgotten before it comes.
local slot, region = KEYS[1], ARGV[1]
local sequence, held, wanted = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local quota, lifetime, kept_until = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local cells = redis.call('HMGET', slot, 'total', 'lent:' .. region, 'seq:' .. region)
local total = tonumber(cells[1] or '0')
local lent = tonumber(cells[2] or '0')
local before = tonumber(cells[3] or '0')
if held > lent then
  total = total + held - lent
  lent = held
elseif before >= sequence then
  return { lent, total, before }
end

local chunk = math.max(0, math.min(wanted, quota - total))
redis.call('HSET', slot, 'total', total + chunk, 'lent:' .. region, lent + chunk, 'seq:' .. region, ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('PEXPIRE', slot, math.max(lifetime, kept_until - now))
return { lent + chunk, total + chunk, before }
