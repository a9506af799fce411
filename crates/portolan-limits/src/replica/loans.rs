//! Lends units of keys under pressure to regions that need them more, for the current slot and, shortly before its end,
//! for the next. A unit is taken out of the own counter first and told after: at no instant may two regions spend it.

use smallvec::SmallVec;

use super::{Limits, transmit::row_interval};
use crate::{
    account::{Account, Field, Loan},
    counter::{Allowance, Counter},
    definition::Kind,
    forecast::{Demand, with_margin},
    key::Key,
    leaf::Leaf,
    lending::{self, Ahead, Party},
    peers::GOSSIP_INTERVAL,
    rights::Rights,
};

impl Limits {
    /// Lends what is due of a key.
    pub(super) fn lend(&mut self, rights: &Rights, key: Key) {
        let lends = self.books.get(&rights.id).is_some_and(|book| book.lends);
        if !lends || self.last.mono < self.lends_from {
            return;
        }
        let slot = rights.terms.slot(self.wall());
        let left = self.left(rights, slot);
        if let Kind::Bucket(buckets) = &rights.terms.kind {
            self.publish_out(rights, key);
            self.lend_rate(rights, buckets, key);
            // A little before its end what comes for this second comes too late.
            let slot = slot + u64::from(left <= self.one_way() + GOSSIP_INTERVAL.as_secs_f64());
            if !rights.lends_rate(slot) {
                self.lend_in(rights, key, slot, Ahead::Begun);
            }
            return;
        }
        let slides = rights.terms.kind == Kind::Sliding;
        if slides {
            self.publish_carried(rights, key, slot - 1);
        }
        // A loan that comes when its slot is over helps nobody.
        if left > self.one_way() {
            let when = if rights.terms.marked() && left > HURRY_SECONDS { Ahead::Unhurried } else { Ahead::Begun };
            self.lend_in(rights, key, slot, when);
        }
        if left < LEAD_SECONDS || slides {
            let when = if rights.terms.marked() { Ahead::Unhurried } else { Ahead::ToCome };
            self.lend_in(rights, key, slot + 1, when);
        }
    }

    fn lend_in(&mut self, rights: &Rights, key: Key, slot: u64, when: Ahead) {
        let begin = rights.terms.begin(slot);
        // After a restart nothing may be left of a slot that this process lent of: the horizon says which those are.
        if !self.may_give(rights, key, slot, begin) || self.stopped(rights, slot) {
            return;
        }
        // What was lent of it before has to be known, for a loan is told as a total.
        if self.awaits_own_row(rights, key, slot) {
            return;
        }
        // What a region without a share has, it borrowed, and nobody takes that from it.
        if !self.has_share(rights, slot, self.me) {
            return;
        }
        let parties = match &rights.terms.kind {
            Kind::Bucket(buckets) => self.token_parties(rights, buckets, key, slot),
            _ => match self.unspent_here(rights, key, slot) {
                // Most keys under pressure have nothing left for most of a slot.
                0 => return,
                have => self.parties(rights, key, slot, when, have),
            },
        };
        if matches!(rights.terms.kind, Kind::Bucket(_)) && !parties.iter().any(Party::lacks) {
            return;
        }
        let due = lending::loans(&parties, self.me, when, slot ^ key.bits() >> 8);
        let pairs = rights.terms.kind == Kind::Sliding && slot > rights.terms.slot(self.wall());
        for (to, amount) in due {
            let amount = if pairs { self.pair_up(rights, key, slot, to, amount) } else { amount };
            if amount > 0 && self.lend_to(rights, key, slot, to, amount) == 0 {
                return;
            }
        }
    }

    /// Lends to one region and returns how much.
    fn lend_to(&mut self, rights: &Rights, key: Key, slot: u64, to: usize, amount: u64) -> u64 {
        let taken = match &rights.terms.kind {
            Kind::Bucket(_) => self.withdraw_tokens(rights, key, slot, amount),
            _ => self.withdraw(rights, key, slot, amount),
        };
        if taken > 0 {
            self.write_loan(rights, key, slot, (Loan::Units, to), taken);
        }
        taken
    }

    /// Writes that so much was lent to a region; the others will hear of it.
    pub(super) fn write_loan(&mut self, rights: &Rights, key: Key, slot: u64, (loan, to): (Loan, usize), amount: u64) {
        let mut row = self.ledger.row(rights.id, key, slot, self.me);
        let before = self.lent_to(rights, key, slot, (loan, to));
        row.lent = SmallVec::from_slice(&[(loan, to as u8, before + amount)]);
        // Of a slot to come nothing is told: what is asked for now would still stand there when the slot has begun.
        if slot <= rights.terms.slot(self.wall()) || matches!(rights.terms.kind, Kind::Bucket(_)) {
            let watch = self.watched.get(&(rights.id, key));
            row.demand = watch.map_or(row.demand, |watch| self.demand_of(rights, watch));
        }
        self.write_own(rights, key, slot, &row);
        self.hurry.insert((rights.id, key));
        if let Some(book) = self.books.get_mut(&rights.id) {
            book.tally.lent += amount;
        }
    }

    /// Lends as much of the present slot as is to be lent of the next, as far as that is spare; returns what of the next
    /// may be.
    fn pair_up(&mut self, rights: &Rights, key: Key, slot: u64, to: usize, amount: u64) -> u64 {
        let present = slot - 1;
        let lacking = amount.saturating_sub(self.most_paired(rights, key, slot, to));
        if lacking > 0 && self.may_give(rights, key, present, rights.terms.begin(present)) {
            let rate = self.watched.get(&(rights.id, key)).map_or(0.0, |watch| self.rate_of(rights, watch));
            let kept = with_margin(rate * self.left(rights, present)).ceil() as u64;
            let view =
                self.with_entry(rights, key, |counter| Leaf::new(&self.shared, rights, key, counter).view(present));
            let spare = view.flatten().map_or(0, |view| view.rights.amount.saturating_sub(view.used));
            self.lend_to(rights, key, present, to, lacking.min(spare.saturating_sub(kept)));
        }
        amount.min(self.most_paired(rights, key, slot, to))
    }

    /// Takes units out of the own counter, which is made if the key has none. Of a marked window only what is durable: a
    /// loan is on disk before it leaves.
    fn withdraw(&mut self, rights: &Rights, key: Key, slot: u64, amount: u64) -> u64 {
        let entitled = self.entitled(rights, key, slot);
        let start = rights.start(&self.shared, key, slot);
        let current = rights.terms.slot(self.wall());
        let shared = &self.shared;
        let kept = if rights.terms.marked() { self.kept_for_requests(rights, key, slot) } else { 0 };
        let take = |counter: &Counter| {
            let durable = match rights.allowance(shared, counter, key, slot) {
                _ if !rights.terms.marked() => entitled,
                Allowance { amount, .. } if amount < entitled => amount.saturating_sub(kept),
                Allowance { amount, .. } => amount,
            };
            let leaf = Leaf::new(shared, rights, key, counter);
            let taken = match rights.terms.kind {
                Kind::Sliding if slot > current => leaf.withdraw(slot, amount, entitled),
                // The estimate of what stays here has to stay within what stays of the rights.
                Kind::Sliding => leaf.view(slot).map_or(0, |view| {
                    let most = view.rights.amount.min(entitled.saturating_sub(view.carried));
                    counter.withdraw(slot, amount, most, start)
                }),
                _ => counter.withdraw(slot, amount, entitled.min(durable), start),
            };
            (taken, counter.used(slot), rights.allowance(shared, counter, key, slot))
        };
        let Some((taken, used, allowance)) = self.with_entry(rights, key, take) else { return 0 };
        self.note_lent(rights, key, slot, taken);
        if taken < amount && rights.terms.marked() && allowance.amount < entitled {
            self.ask_for_mark(rights, key, slot, used.saturating_add(amount - taken + kept).min(entitled));
        }
        taken
    }

    /// What a region may be lent of the next slot at most. Loans of a sliding window come in pairs of a slot and the next: of the
    /// next no more than of the present one, so that what was spent here stays within what may be carried over (rule 9.7).
    fn most_paired(&self, rights: &Rights, key: Key, slot: u64, to: usize) -> u64 {
        let lent = |slot| self.lent_to(rights, key, slot, (Loan::Units, to));
        lent(slot - 1).saturating_sub(lent(slot))
    }

    fn lent_to(&self, rights: &Rights, key: Key, slot: u64, (loan, to): (Loan, usize)) -> u64 {
        let lent = Field::Lent(loan, to as u8);
        self.ledger.account(rights.id, key).map_or(0, |account| account.amount(slot, self.me, lent))
    }

    /// Ends a slot of a sliding window that is over: what was lent of it does not carry over. Of one that a process before
    /// may have spent the row does not tell all.
    fn publish_carried(&self, rights: &Rights, key: Key, slot: u64) {
        let gate = self.shared.gates.of(key);
        let lent = self.ledger.lent_out(rights.id, key, slot, self.me);
        if lent == 0 || gate.is_foreign() || rights.was_touched(&self.shared, key, slot) {
            return;
        }
        self.with_entry(rights, key, |counter| {
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            if counter.carried(slot).is_none()
                && let Some(used) = leaf.seal(slot)
            {
                leaf.publish_carried(slot, used.saturating_sub(lent));
            }
        });
    }

    /// What this region may still spend or lend of a slot.
    fn unspent_here(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let used = self.with_entry(rights, key, |counter| counter.used(slot)).unwrap_or(0);
        self.entitled(rights, key, slot).saturating_sub(used)
    }

    /// The regions as the lending rule sees them; this one has `have` left of the slot.
    fn parties(&self, rights: &Rights, key: Key, slot: u64, when: Ahead, have: u64) -> SmallVec<[Party; 8]> {
        let current = rights.terms.slot(self.wall());
        let regions = self.regions.len();
        let account = self.ledger.account(rights.id, key);
        let of_slot = account.map(|account| account.balances(slot, regions)).unwrap_or_default();
        let bases = self.books.get(&rights.id).map_or(&[][..], |book| book.bases(slot));
        let window = rights.terms.length(slot);
        let (left, to_come) = (self.left(rights, current), slot > current);
        // Of what is to come nothing is used.
        let elapsed = if to_come { 0.0 } else { (window - left).max(0.0) };
        let horizon = if when == Ahead::Unhurried { HURRY_SECONDS } else { window };
        let mine = self.watched.get(&(rights.id, key));
        let party = |at: usize| {
            let balance = of_slot.get(at).copied().unwrap_or_default();
            let base = bases.get(at).copied().unwrap_or(0);
            let reachable = self.reaches_owner(at, key);
            let (demand, have) = if at == self.me {
                (mine.map(|watch| self.demand_of(rights, watch)).unwrap_or_default(), have as f64)
            } else {
                let unspent = balance.unspent(base) as f64;
                let Some(demand) = account.and_then(|account| self.told_demand(rights, account, current, at)) else {
                    // A silent region has used less than half, and expects to stay below its share.
                    let quiet = QUIET * base as f64 / window;
                    let need = quiet * horizon.min(window - elapsed);
                    return Party { need, later: 0.0, risen: true, have: unspent - quiet * elapsed, base, reachable };
                };
                (demand, unspent - demand.rate.units() * self.view_age().min(elapsed))
            };
            let next = demand.next.units();
            let of_next = with_margin(next * (horizon / window).min(1.0));
            let need = if to_come { of_next } else { with_margin(demand.rate.units() * horizon.min(left)) };
            // Demand that comes in bursts: the slots before say far more than the pace.
            let expected = next - balance.consumed as f64;
            let (later, risen) = ((expected - 2.0 * need).max(0.0), need > expected);
            Party { need, later, risen, have, base, reachable }
        };
        (0..regions).map(party).collect()
    }

    /// What a region told last of its demand, if anything, in `slot`, which is the present one. A row that lent of it before
    /// it began says nothing of demand; what was told in the slot before counts until the region's first word must have
    /// come. From then on such a row says that nothing is asked for there.
    pub(super) fn told_demand(&self, rights: &Rights, account: &Account, slot: u64, region: usize) -> Option<Demand> {
        let now = account.told(slot, region);
        let first_word = row_interval(rights).as_secs_f64() + GOSSIP_INTERVAL.as_secs_f64() + self.one_way();
        let due = self.wall().since(rights.terms.begin(slot)).as_secs_f64() > first_word;
        let spoken = now.filter(|&(consumed, demand)| due || consumed > 0 || demand != Demand::default());
        spoken.or_else(|| account.told(slot.saturating_sub(1), region)).or(now).map(|(_, demand)| demand)
    }
}

/// What a silent region is taken to use of its share.
pub(super) const QUIET: f64 = 0.25;

/// Of a long window a region is lent to when it would run dry so soon; in the end what is left goes where it can still be
/// spent.
const HURRY_SECONDS: f64 = 2.0;

/// The next slot is lent of so long before it begins: after that demand is known best, and before the horizon is durable
/// nothing may be lent.
const LEAD_SECONDS: f64 = 2.0;
