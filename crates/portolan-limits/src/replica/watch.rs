//! Keys under pressure: which they are, what was consumed and asked of them since the last look, and what the others
//! should know of it. A key is silent until half of its share is used or more is forecast than it has: a million keys
//! that nobody limits cost no byte between regions.

use portolan_model::{Now, Timestamp};
use smallvec::smallvec;

use super::{Limits, Place, tokens::Drawn};
use crate::{
    Cell,
    account::Row,
    counter::Counter,
    definition::Kind,
    forecast::{Demand, Flow, with_margin},
    key::Key,
    rights::Rights,
};

/// What this region remembers of a key under pressure, beside its account.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    pub flow: Flow,
    /// The slot that the numbers below are of.
    pub slot: u64,
    /// Consumed and not given back when last looked at.
    pub net: u64,
    /// Refused of it here, whichever of the region's nodes was asked.
    pub refused: u64,
    /// What the rights were raised by beyond base and loans.
    pub overdraft: u64,
    /// Of a bucket: how it stood then.
    pub drawn: Drawn,
    /// What the others were last told, and when.
    pub told: Demand,
    pub told_at: Timestamp,
    /// When loans were last considered.
    pub lent_at: Timestamp,
    /// When it was last used here, or another region told of it.
    pub moved_at: Timestamp,
    /// The last slot in which the key was under pressure here, or another region said that it was there.
    pub pressed: u64,
}

/// One look at a counter.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    pub used: u64,
    pub used_before: u64,
    pub refused: u64,
    /// Half of a bucket is gone.
    pub low: bool,
}

impl Watch {
    pub fn new(slot: u64, now: Timestamp) -> Self {
        Self {
            flow: Flow::new(slot, now),
            slot,
            net: 0,
            refused: 0,
            overdraft: 0,
            drawn: Drawn::default(),
            told: Demand::default(),
            told_at: Timestamp::ZERO,
            lent_at: Timestamp::ZERO,
            moved_at: now,
            pressed: slot,
        }
    }
}

impl Limits {
    /// Looks at a counter, and takes what was refused since the last look.
    pub(super) fn look_at(&self, rights: &Rights, key: Key, counter: &Counter) -> Look {
        let current = rights.terms.slot(self.wall());
        let low = match &rights.terms.kind {
            Kind::Bucket(buckets) if self.shared.owns(key) => self.runs_low(rights, buckets, key, counter),
            _ => false,
        };
        let (used, used_before) = (counter.used(current), counter.used(current.wrapping_sub(1)));
        Look { used, used_before, refused: counter.take_refused(), low }
    }

    /// Whether a key deserves a closer look: told cheaply, for it is asked of every key that moved.
    pub(super) fn is_pressed(&self, rights: &Rights, key: Key, look: Look) -> bool {
        if rights.terms.kind == Kind::Concurrency {
            // Nothing in flight can be lent.
            return self.shares_view(rights);
        }
        let slot = rights.terms.slot(self.wall());
        let base = match rights.terms.kind {
            Kind::Bucket(_) if look.low || !rights.lends_rate(slot) => {
                return look.low || look.refused > 0 || self.shares_view(rights);
            }
            // What it borrows keeps its bucket full.
            Kind::Bucket(_) => rights.terms.tokens(rights.terms.base(slot)).of_slot(),
            _ => rights.terms.base(slot),
        };
        let elapsed = self.wall().since(rights.terms.begin(slot)).as_secs_f64();
        let window = rights.terms.length(slot);
        // What the other nodes were granted for the whole slot is nobody's pace, and most of it will not be used.
        let spare = || self.siblings.grants.spare(&Cell { limit: rights.id, key, slot });
        let half = |used: u64| used.saturating_mul(2) >= base;
        let much = half(look.used) && half(look.used.saturating_sub(spare() / 2));
        // At the pace of the slot so far, with a margin that keeps a few first requests from looking like a flood.
        let paced = |used: u64| (used as f64 - 2.0 * (used as f64).sqrt()) * window > base as f64 * elapsed;
        let fast = paced(look.used) && paced(look.used.saturating_sub(spare()));
        look.refused > 0 || much || fast || self.shares_view(rights)
    }

    /// Takes in what happened to a key since the last look, and says whether it is under pressure.
    pub(super) fn look(&mut self, rights: &Rights, key: Key, look: Look, now: Now) {
        let slot = rights.terms.slot(self.wall());
        let place = (rights.id, key);
        let begun =
            || Watch { net: self.ledger.row(rights.id, key, slot, self.me).net(), ..Watch::new(slot, now.mono) };
        let watch = match self.watched.get(&place) {
            Some(watch) => *watch,
            None if self.watched.len() < self.most_watched => begun(),
            None => {
                self.stats.watches_full += 1;
                return;
            }
        };
        // What counts as consumed since nobody knows better was asked for by nobody.
        let unasked = self.begun(rights, key, slot).saturating_sub(self.ledger.lent_out(rights.id, key, slot, self.me));
        let (mut flow, mut net) = (watch.flow, watch.net);
        let window = rights.terms.length(slot);
        // What nobody is pressed for is not told: else regions would go on watching a key because the others do.
        let told = |limits: &Self, slot| {
            limits.ledger.account(rights.id, key).is_some_and(|account| account.has_row(slot, limits.me))
        };
        let mut before = 0;
        if watch.slot != slot {
            if watch.slot + 1 == slot {
                // What came after the last look of the slot before belongs to it.
                let last = match rights.terms.kind {
                    Kind::Bucket(_) if !rights.lends_rate(watch.slot) => net,
                    _ => self.consumed(rights, key, watch.slot, look.used_before).max(net),
                };
                before = last - net;
                self.count(rights, last - net, 0);
                if watch.pressed >= watch.slot || told(self, watch.slot) {
                    let demand = self.demand_of(rights, &Watch { flow, ..watch });
                    self.join_own(rights, key, watch.slot, last, demand);
                }
            }
            net = 0;
        }
        net = net.max(unasked);
        let (drawn, bucket) = self.drawn(rights, key, watch.drawn, look);
        let consumed = match rights.terms.kind {
            Kind::Bucket(_) if !rights.lends_rate(slot) => net.saturating_add(drawn),
            _ => self.consumed(rights, key, slot, look.used),
        };
        // A key without room for a counter has its mark.
        let consumed = consumed.max(unasked);
        let asked = consumed.saturating_sub(net) + look.refused;
        flow.record((before, asked), self.lump(rights, key, slot), slot, window, now.mono);
        self.count(rights, consumed.saturating_sub(net), look.refused);
        self.count_refused_below(rights, key, slot, consumed, look.refused);
        self.mark_refused(rights, key, slot, look.refused);
        let (overdraft, refused) = if watch.slot == slot { (watch.overdraft, watch.refused) } else { (0, 0) };
        let refused = refused.saturating_add(look.refused);
        let moved = asked > 0 || consumed != net;
        let moved_at = if moved { now.mono } else { watch.moved_at };
        let mut watch = Watch { flow, slot, net: consumed, refused, overdraft, drawn: bucket, moved_at, ..watch };
        let pressed = self.under_pressure(rights, key, &watch, look);
        watch.pressed = if pressed { slot } else { watch.pressed };
        self.watched.insert(place, watch);
        if pressed || told(self, slot) {
            self.join_own(rights, key, slot, consumed, self.demand_of(rights, &watch));
        }
    }

    /// Units that are counted at a time at most: of a long window a chunk that another node was granted counts at once, and is
    /// spent over seconds.
    fn lump(&self, rights: &Rights, key: Key, slot: u64) -> u64 {
        let granted = || self.siblings.grants.chunk_of(&Cell { limit: rights.id, key, slot });
        if rights.terms.marked() { granted().max(1) } else { 1 }
    }

    /// What was consumed and not given back, given what is used: that also has what was lent.
    pub(super) fn consumed(&self, rights: &Rights, key: Key, slot: u64, used: u64) -> u64 {
        used.saturating_sub(self.ledger.lent_out(rights.id, key, slot, self.me))
    }

    /// Whether a key is asked for so much that the others have to know of it. That some of it was lent is no pressure.
    fn under_pressure(&self, rights: &Rights, key: Key, watch: &Watch, look: Look) -> bool {
        if matches!(rights.terms.kind, Kind::Bucket(_)) {
            return self.is_pressed(rights, key, look);
        }
        let lent = self.ledger.lent_out(rights.id, key, watch.slot, self.me);
        let own = self.entitled(rights, key, watch.slot).saturating_sub(lent);
        let expected = with_margin(self.rate_of(rights, watch) * self.left(rights, watch.slot));
        look.refused > 0
            || (watch.net > 0 && watch.net.saturating_mul(2) >= own)
            || watch.net as f64 + expected > own as f64
            || self.shares_view(rights)
    }

    pub(super) fn demand_of(&self, rights: &Rights, watch: &Watch) -> Demand {
        watch.flow.demand(rights.terms.length(watch.slot), self.left(rights, watch.slot))
    }

    /// Units a second that a key is asked for here.
    pub(super) fn rate_of(&self, rights: &Rights, watch: &Watch) -> f64 {
        watch.flow.rate(rights.terms.length(watch.slot))
    }

    /// Seconds until a slot ends.
    pub(super) fn left(&self, rights: &Rights, slot: u64) -> f64 {
        rights.terms.end(slot).since(self.wall()).as_secs_f64()
    }

    /// Brings the own row up to what was consumed; what was given back since is told as refunded, for a cell never falls.
    fn join_own(&mut self, rights: &Rights, key: Key, slot: u64, net: u64, demand: Demand) {
        let before = self.ledger.row(rights.id, key, slot, self.me);
        if net == 0 && before == Row::default() && demand == Demand::default() {
            return;
        }
        let mut row = Row { lent: smallvec![], demand, ..before };
        if self.awaits_own_row(rights, key, slot) {
            // Of what is used it is not known how much was lent.
        } else if net >= row.net() {
            row.consumed = row.refunded + net;
        } else if rights.terms.marked() || !rights.was_touched(&self.shared, key, slot) {
            // Of a slot without marks that the process before spent the row says more than our counter.
            row.refunded = row.consumed - net;
        }
        self.write_own(rights, key, slot, &row);
    }

    /// Whether what an owner before told of a slot may still have to come back from other regions.
    pub(super) fn awaits_own_row(&self, rights: &Rights, key: Key, slot: u64) -> bool {
        self.last.mono < self.echoed_at && rights.was_touched(&self.shared, key, slot)
    }

    /// Joins a row of our own; the others will hear of it.
    pub(super) fn write_own(&mut self, rights: &Rights, key: Key, slot: u64, row: &Row) {
        self.join(rights.id, key, slot, self.me, row);
        self.untold.insert(Place { limit: rights.id, slot, key });
    }

    pub(super) fn count(&mut self, rights: &Rights, admitted: u64, refused: u64) {
        if let Some(book) = self.books.get_mut(&rights.id) {
            book.tally.admitted += admitted;
            book.tally.refused += refused;
        }
    }

    /// Counts what was refused although all regions together, as far as is known, were below the quota.
    fn count_refused_below(&mut self, rights: &Rights, key: Key, slot: u64, net: u64, refused: u64) {
        if refused == 0 {
            return;
        }
        let known = net.saturating_add(self.ledger.others(rights.id, key, slot, self.me));
        let below = refused.min((rights.terms.per_slot() as u64).saturating_sub(known));
        if let Some(book) = self.books.get_mut(&rights.id) {
            book.tally.refused_below += below;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_model::{HashKey, WallTime};

    use super::*;
    use crate::{Admission, Claim, Definition, LimitId, LimitsConfig, Recovery};

    #[test]
    fn what_is_refused_of_a_key_is_told_of_its_window() {
        const BEGIN: u64 = 1_795_312_345_000;
        let at = |millis: u64| Now {
            mono: Timestamp::ZERO + Duration::from_millis(millis),
            wall: WallTime::from_unix_millis(BEGIN + millis),
        };
        let mut limits = Limits::new(LimitsConfig::alone(), Recovery::FirstStart, at(0));
        limits.handle_definitions(&[Definition::of_rate(1, "3/s")], at(0));
        let key = Key::new(&HashKey::new([3; 16]), LimitId(1), &[b"k"]);
        let mut refused = |millis: u64, requests: usize| {
            let make_durable = |limits: &mut Limits| {
                limits.handle_timeout(at(millis));
                while let Some(write) = limits.poll_marks() {
                    limits.handle_durable(write.sequence, at(millis));
                }
            };
            make_durable(&mut limits);
            let claim = [Claim { limit: LimitId(1), key, cost: 1 }];
            for _ in 0..requests {
                let admission = limits.limiter().admit(&claim, at(millis));
                assert!(!matches!(admission, Admission::Wait(_)), "{admission:?}");
                make_durable(&mut limits);
            }
            limits.explain(LimitId(1), key, at(millis)).expect("it is defined").regions[0].refused
        };
        assert_eq!(
            [(100, 3), (200, 2), (300, 5), (1100, 0), (1200, 4)].map(|(at, sent)| refused(at, sent)),
            [0, 2, 7, 0, 1]
        );
        let all = &limits.overview(at(1200))[0];
        assert_eq!((all.tally.refused, all.busiest[0].regions[0].refused), (8, 1));
    }
}
