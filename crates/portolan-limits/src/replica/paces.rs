//! Rate that regions lend each other of a token bucket: who lends how much of a slot to whom, and how fast the own bucket
//! fills for it. A loan is a number of tokens that the lender's bucket lacks over the slot and the borrower's gains, spread
//! evenly: see `pace`. A lender fills more slowly before it tells. Decides nothing about requests.

use portolan_model::WallTime;
use smallvec::SmallVec;

use super::{Limits, loans::QUIET};
use crate::{
    account::{Account, Balance, Field, Loan},
    counter::Counter,
    definition::Buckets,
    forecast::with_margin,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    leaf::Leaf,
    lending::{self, Ahead, Party},
    pace::{Moved, Pace},
    peers::GOSSIP_INTERVAL,
    rights::Rights,
};

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
        if !rights.lends_rate(slot) || !gives() || self.turns(rights, slot) {
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
        let for_it = self.lowered_for(rights, account, slot, to);
        share.saturating_sub(self.lowered(rights, account, slot) - for_it).saturating_sub(lent)
    }

    /// Whether shares turn with a slot or next to it. A bucket that gains by that begins empty, when its share of the rate
    /// holds for all clocks: until then it has nothing to lend.
    fn turns(&self, rights: &Rights, slot: u64) -> bool {
        let bases = |slot| self.books.get(&rights.id).map(|book| book.bases(slot));
        let all = bases(slot);
        [slot.saturating_sub(1), slot + 1].into_iter().any(|other| bases(other) != all)
    }

    /// Tokens by which the own bucket fills more slowly in a slot.
    fn lowered(&self, rights: &Rights, account: &Account, slot: u64) -> u64 {
        (0..self.regions.len()).map(|to| self.lowered_for(rights, account, slot, to)).sum()
    }

    /// For one region: what it is lent of the slot, or, while its clock may be in the slot before, what it was lent of that if
    /// it is more.
    fn lowered_for(&self, rights: &Rights, account: &Account, slot: u64, to: usize) -> u64 {
        let before = slot.saturating_sub(1);
        let lingers = self.wall() < rights.terms.end(before) + CLOCK_TOLERANCE;
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
        if !(slot.saturating_sub(1)..=slot + 1).any(|slot| rights.lends_rate(slot)) {
            return;
        }
        let Some(account) = self.ledger.account(rights.id, key) else { return };
        let paces = [slot, slot + 1].map(|slot| self.pace(rights, account, key, slot, wall));
        let publish = |counter: &Counter| {
            let found = counter.paces(slot);
            let of = |slot| found.iter().flatten().find(|(of, _)| *of == slot).map(|(_, pace)| *pace);
            let same = |(pace, slot): (&Option<Pace>, u64)| match (pace, of(slot)) {
                (Some(pace), Some(found)) => pace.is_as(&found),
                (pace, found) => pace.is_none() && found.is_none(),
            };
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            if !paces.iter().zip(slot..).all(same) {
                leaf.publish_paces(buckets, paces);
            }
        };
        self.shared.table.with(key, publish);
        // What waits may find tokens that dripped in.
        self.siblings.relief |= paces[0].is_some_and(|pace| pace.is_faster());
    }

    /// How fast the own bucket fills in a slot from here on, if not by its share.
    fn pace(&self, rights: &Rights, account: &Account, key: Key, slot: u64, wall: WallTime) -> Option<Pace> {
        let begin = rights.terms.begin(slot);
        let opens = self.shared.gates.of(key).barrier().opens(&rights.terms, slot, begin);
        let balance = account.balance(slot, self.me);
        let borrowed = if opens && rights.lends_rate(slot) { balance.rate_borrowed } else { 0 };
        let share = rights.terms.tokens(rights.terms.base(slot));
        let from_ms = wall.since(begin).as_millis() as u64;
        let (lacking, lends) = (self.lowered(rights, account, slot), balance.rate_lent > 0);
        let pace = Pace::new(from_ms, share, Moved { borrowed, lacking, lends });
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
