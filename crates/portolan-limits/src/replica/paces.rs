//! Rate that regions lend each other of a token bucket: who lends how much of a slot to whom, and how fast the own bucket
//! fills for it. A loan is a number of tokens that the lender's bucket lacks over the slot and the borrower's gains, spread
//! evenly: see `pace`. A lender fills more slowly before it tells. Decides nothing about requests.

use portolan_model::{Timestamp, WallTime};
use smallvec::SmallVec;

use super::{Limits, loans::QUIET};
use crate::{
    account::{Account, Balance, Field, Loan},
    counter::Counter,
    definition::{Buckets, Kind},
    forecast::with_margin,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    leaf::Leaf,
    lending::{self, Ahead, Party},
    pace::{Moved, Pace},
    peers::GOSSIP_INTERVAL,
    rights::Rights,
};

/// Slots that rate of one bucket was lent of, and until when.
pub(crate) type LentSlots = SmallVec<[(u64, Timestamp); 2]>;

impl Limits {
    /// Lends of the present slot, and shortly before its end of the next: not before that, for a bucket fills more slowly
    /// from the loan on.
    pub(super) fn lend_rate(&mut self, rights: &Rights, buckets: &Buckets, key: Key) {
        let slot = rights.terms.slot(self.wall());
        let left = self.left(rights, slot);
        if left > self.one_way() {
            self.lend_rate_in(rights, buckets, key, slot);
        }
        if left <= self.one_way() + LEAD_ROUNDS * GOSSIP_INTERVAL.as_secs_f64() {
            self.lend_rate_in(rights, buckets, key, slot + 1);
        }
    }

    fn lend_rate_in(&mut self, rights: &Rights, buckets: &Buckets, key: Key, slot: u64) {
        let begin = rights.terms.begin(slot);
        let gives = || self.may_give(rights, key, slot, begin) && !self.stopped(rights, slot);
        if !rights.lends_rate(slot) || !gives() || self.turns(rights, slot) || self.outlasts(rights, key, slot) {
            return;
        }
        let parties = self.rate_parties(rights, key, slot);
        if !parties.iter().any(Party::lacks) {
            return;
        }
        for (to, amount) in lending::loans(&parties, self.me, Ahead::Begun, slot ^ key.bits() >> 8) {
            let amount = amount.min(self.unlent(rights, key, slot, to));
            if amount > 0 && self.with_entry(rights, key, |_| ()).is_some() {
                self.write_loan(rights, key, slot, (Loan::Rate, to), amount);
                self.note_on_loan(rights, key, slot);
            }
        }
        self.publish_paces(rights, buckets, key);
    }

    /// Rate that a region may still be lent of a slot: the own share less what the bucket fills more slowly by already, but
    /// for what it does for that region.
    fn unlent(&self, rights: &Rights, key: Key, slot: u64, to: usize) -> u64 {
        let share = rights.terms.tokens(self.base(rights, slot, self.me)).of_slot();
        let Some(account) = self.ledger.account(rights.id, key) else { return share };
        let lent = account.amount(slot, self.me, Field::Lent(Loan::Rate, to as u8));
        let for_it = self.lowered_for(rights, key, account, slot, to);
        share.saturating_sub(self.lowered(rights, key, account, slot) - for_it).saturating_sub(lent)
    }

    /// Whether shares turn with a slot or next to it. A bucket that gains by that begins empty, when its share of the rate
    /// holds for all clocks: until then it has nothing to lend.
    fn turns(&self, rights: &Rights, slot: u64) -> bool {
        let bases = |slot| self.books.get(&rights.id).map(|book| book.bases(slot));
        let all = bases(slot);
        [slot.saturating_sub(1), slot + 1].into_iter().any(|other| bases(other) != all)
    }

    /// Tokens by which the own bucket fills more slowly in a slot.
    fn lowered(&self, rights: &Rights, key: Key, account: &Account, slot: u64) -> u64 {
        (0..self.regions.len()).map(|to| self.lowered_for(rights, key, account, slot, to)).sum()
    }

    /// Notes until when others may fill by what was lent of a slot, by the clock that does not leap.
    fn note_on_loan(&mut self, rights: &Rights, key: Key, slot: u64) {
        let until = self.last.mono + (rights.terms.end(slot) + CLOCK_TOLERANCE).since(self.wall());
        let lent = self.on_loan.entry((rights.id, key)).or_default();
        match lent.iter_mut().find(|(of, _)| *of == slot) {
            Some((_, known)) => *known = until.max(*known),
            None => lent.push((slot, until)),
        }
    }

    /// Lets buckets fill as before of which nobody fills any more by what they lent.
    pub(super) fn end_rate_loans(&mut self) {
        let now = self.last.mono;
        let mut over = Vec::new();
        self.on_loan.retain(|place, lent| {
            let before = lent.len();
            lent.retain(|(_, until)| *until > now);
            over.extend((lent.len() < before).then_some(*place));
            !lent.is_empty()
        });
        let limiter = self.limiter();
        for (limit, key) in over {
            if let Some(rights) = limiter.rights(limit)
                && let Kind::Bucket(buckets) = &rights.terms.kind
            {
                self.publish_paces(rights, buckets, key);
            }
        }
    }

    /// Slots of which something is on loan when `slot` begins, or by now if it has.
    fn on_loan(&self, rights: &Rights, key: Key, slot: u64) -> impl Iterator<Item = u64> {
        let at = self.last.mono + rights.terms.begin(slot).since(self.wall());
        let lent = self.on_loan.get(&(rights.id, key)).into_iter().flatten();
        lent.filter(move |(_, until)| *until > at).map(|(slot, _)| *slot)
    }

    /// Whether something is on loan that by civil time ended long before a slot: that has leapt, and nobody knows here any
    /// more how much it was.
    fn outlasts(&self, rights: &Rights, key: Key, slot: u64) -> bool {
        self.on_loan(rights, key, slot).any(|lent| lent + 1 < slot)
    }

    /// For one region: what it is lent of the slot, or, while its clock may be in the slot before, what it was lent of that if
    /// it is more.
    fn lowered_for(&self, rights: &Rights, key: Key, account: &Account, slot: u64, to: usize) -> u64 {
        let before = slot.saturating_sub(1);
        let by_civil_time = self.wall() < rights.terms.end(before) + CLOCK_TOLERANCE;
        let lingers = by_civil_time || self.on_loan(rights, key, slot).any(|lent| lent == before);
        let lent = |slot| account.amount(slot, self.me, Field::Lent(Loan::Rate, to as u8));
        lent(slot).max(if lingers { lent(before) } else { 0 })
    }

    /// Lets the own bucket fill as it has to, or may, in the present slot and the next.
    pub(super) fn publish_paces(&mut self, rights: &Rights, buckets: &Buckets, key: Key) {
        if self.shared.gates.of(key).is_foreign() {
            return;
        }
        let wall = self.wall();
        let slot = rights.terms.slot(wall);
        let account = self.ledger.account(rights.id, key);
        let paces = [slot, slot + 1].map(|slot| self.pace(rights, account, key, slot, wall));
        let publish = |counter: &Counter| {
            let found = counter.paces(slot);
            let of = |slot| found.iter().flatten().find(|(of, _)| *of == slot).map(|(_, pace)| *pace);
            let same = |(pace, slot): (&Option<Pace>, u64)| match (pace, of(slot)) {
                (Some(pace), Some(found)) => pace.is_as(&found),
                (pace, found) => pace.is_none() && found.is_none(),
            };
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            let others = || found.iter().flatten().any(|(of, _)| *of != slot && *of != slot + 1);
            if !paces.iter().zip(slot..).all(same) || others() {
                leaf.publish_paces(buckets, paces);
            }
        };
        self.shared.table.with(key, publish);
        // What waits may find tokens that dripped in.
        self.siblings.relief |= paces[0].is_some_and(|pace| pace.is_faster());
    }

    /// How fast the own bucket fills in a slot from here on, if not by its share.
    fn pace(&self, rights: &Rights, account: Option<&Account>, key: Key, slot: u64, wall: WallTime) -> Option<Pace> {
        let begin = rights.terms.begin(slot);
        let opens = self.shared.gates.of(key).barrier().opens(&rights.terms, slot, begin);
        let lent = |account: &Account| {
            // Who is ahead of time takes back what it lent before that is over here, and who has no share had none to lend.
            let sound = |&from: &usize| !self.clock_ahead[from] && self.has_share(rights, slot, from);
            let sound = (0..self.regions.len()).filter(|&from| from != self.me).filter(sound);
            sound.map(|from| account.amount(slot, from, Field::Lent(Loan::Rate, self.me as u8))).sum()
        };
        let lent = if opens && rights.lends_rate(slot) { account.map_or(0, lent) } else { 0 };
        let [share, whole] = [rights.terms.base(slot), rights.terms.quota].map(|count| rights.terms.tokens(count));
        // Under a rate that was lowered since this region fills by no more than all of it.
        let borrowed = whole.of_slot().saturating_sub(share.of_slot()).min(lent);
        let from_ms = wall.since(begin).as_millis() as u64;
        let lacking = match account {
            _ if self.outlasts(rights, key, slot) => u64::MAX,
            Some(account) => self.lowered(rights, key, account, slot),
            None => 0,
        };
        let pace = Pace::new(from_ms, share, Moved { borrowed, lacking });
        (!pace.is_plain()).then_some(pace)
    }

    /// The regions as the lending rule sees them: what a slot gives each of them, and what it is asked for in one.
    fn rate_parties(&self, rights: &Rights, key: Key, slot: u64) -> SmallVec<[Party; 8]> {
        let current = rights.terms.slot(self.wall());
        let regions = self.regions.len();
        let account = self.ledger.account(rights.id, key);
        let of_slot = account.map(|account| account.balances(slot, regions)).unwrap_or_default();
        let party = |at: usize| {
            let balance: Balance = of_slot.get(at).copied().unwrap_or_default();
            let base = rights.terms.tokens(self.base(rights, slot, at)).of_slot();
            let have = base.saturating_add(balance.rate_borrowed).saturating_sub(balance.rate_lent) as f64;
            let need = if at == self.me {
                self.watched.get(&(rights.id, key)).map_or(0.0, |watch| with_margin(self.rate_of(rights, watch)))
            } else {
                // A silent region is asked for less than its share.
                let told = account.and_then(|account| self.told_demand(rights, account, current, at));
                told.map_or(base as f64 * QUIET, |demand| with_margin(demand.rate.units()))
            };
            // A region without a share has no bucket that rate could drip into.
            let reachable = base > 0 && self.reaches_owner(at, key);
            Party { need, later: 0.0, risen: true, have, base, reachable }
        };
        (0..regions).map(party).collect()
    }
}

/// Rounds before the end of a slot in which the next one is lent of.
const LEAD_ROUNDS: f64 = 2.0;
