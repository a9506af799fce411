//! The state machine's side of one key's entry: what it may read, publish, take away and put back. Decides nothing; every
//! call is a few atomic steps, and workers go on charging the same entry meanwhile.

use crate::{
    bucket::{BucketTime, Level},
    counter::{Allowance, Counter},
    definition::{Buckets, Kind},
    drip::{Purse, owe, purse, purse_at},
    key::Key,
    pace::{self, Pace},
    rights::{Rights, View},
    shared::Shared,
    slide::carry,
    spend::{Site, view},
    verdict::WaitReason,
};

/// One entry, held so that it cannot become another key's.
#[derive(Clone, Copy)]
pub(crate) struct Leaf<'a> {
    pub shared: &'a Shared,
    pub rights: &'a Rights,
    pub key: Key,
    counter: &'a Counter,
}

/// Tokens of a bucket that are lent or granted and may be unspent, all of them to be spent by the end of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub slot: u64,
    pub amount: u64,
}

#[allow(dead_code, reason = "what lending and granting are made of")]
impl<'a> Leaf<'a> {
    pub fn new(shared: &'a Shared, rights: &'a Rights, key: Key, counter: &'a Counter) -> Self {
        Self { shared, rights, key, counter }
    }

    /// What is used of `slot`: spent, lent and handed on. May fall by what is refunded or restored.
    pub fn used(&self, slot: u64) -> u64 {
        self.counter.used(slot)
    }

    /// What may be used of `slot` at most, as the request path sees it.
    pub fn rights(&self, slot: u64) -> Allowance {
        self.rights.allowance(self.shared, self.counter, self.key, slot)
    }

    /// Publishes what may be used of `slot` at most, and whether more may come soon. Within a slot the amount may not
    /// fall, but for what was only lent by a policy (`open`, overdraft): take away with [`withdraw`](Self::withdraw).
    /// An amount below what a key has at first (its base, if this node owns it) is without effect.
    pub fn publish_rights(&self, slot: u64, amount: u64, pending: Option<WaitReason>) {
        self.counter.publish_rights(slot, Allowance { amount, pending });
    }

    /// Seals `slot`: nothing is added to it or given back any more. Returns what is used of it, lent included.
    pub fn seal(&self, slot: u64) -> Option<u64> {
        self.counter.seal(slot, self.rights.start(self.shared, self.key, slot))
    }

    /// Says what a sliding window carries over from a sealed `slot`: what was spent, without what was lent.
    pub fn publish_carried(&self, slot: u64, spent: u64) {
        self.counter.publish_carried(slot, spent);
    }

    /// Publishes how much of `slot` may be used before a worker asks for attention, so that the next chunk comes in time.
    /// For keys that another node owns.
    pub fn publish_low_water(&self, slot: u64, amount: u64) {
        self.counter.publish_others(slot, amount);
    }

    /// Takes up to `at_most` of what `rights` leave in `slot`, to be lent, granted or handed back; begins a slot that is
    /// to come. Returns what was taken: it cannot be spent here any more. 0 for a slot that is over.
    ///
    /// Of a sliding window, take of the next slot only what was taken of the present one before: loans come in pairs.
    /// Of a bucket this takes what was borrowed; see [`take_tokens`](Self::take_tokens) for its own.
    pub fn withdraw(&self, slot: u64, at_most: u64, rights: u64) -> u64 {
        let latest = self.shared.latest();
        match &self.rights.terms.kind {
            Kind::Sliding if slot > self.rights.terms.slot(latest) => {
                // The word still counts the slot before the present one, which carries over.
                let before = slot.saturating_sub(2);
                let used = self.counter.seal(before, self.rights.start(self.shared, self.key, before));
                if let Some(used) = used.filter(|_| self.counter.carried(before).is_none()) {
                    self.counter.publish_carried(before, used);
                }
                self.counter.withdraw(slot, at_most, rights, self.rights.start(self.shared, self.key, slot))
            }
            _ => self.counter.withdraw(slot, at_most, rights, self.rights.start(self.shared, self.key, slot)),
        }
    }

    /// What may be spent of `slot`, and what is: as the request path sees it. `None` for a slot that is over, and for one to
    /// come unless it is a fixed window's.
    pub fn view(&self, slot: u64) -> Option<View> {
        let (shared, rights, latest) = (self.shared, self.rights, self.shared.latest());
        match &rights.terms.kind {
            Kind::Bucket(buckets) => Some(purse(shared, self.site(), buckets, 1, latest).view),
            kind => {
                let to_come = slot > rights.terms.slot(latest);
                if to_come && *kind != Kind::Fixed {
                    return None;
                }
                let carried = carry(shared, self.site(), slot)?.weighed(rights, slot, latest);
                Some(view(shared, self.site(), self.counter.word(slot), slot, carried))
            }
        }
    }

    /// What a bucket holds. The key must be this node's.
    pub fn purse(&self, buckets: &Buckets) -> Purse {
        purse(self.shared, self.site(), buckets, 1, self.shared.latest())
    }

    /// Says what of a bucket is out, to be spent by the end of `slot`. Of what was out before and is not any more, `unspent`
    /// units came back; all else counts as spent up to this moment, so that the bucket does not gain by the news of it.
    pub fn publish_out(&self, buckets: &Buckets, out: Out, unspent: u64) {
        let purse = self.purse(buckets);
        // One that was never asked has a level from here on.
        owe(self.counter, purse.debt, purse.at);
        self.counter.publish_out(out.slot, out.amount);
        if unspent > 0 {
            let time = purse.time.saturating_mul(unspent);
            self.counter.change_level(|level| Some(level.given_back(time)));
        }
    }

    /// Publishes how fast a bucket fills in the present slot from here on, and in the next.
    pub fn publish_paces(&self, buckets: &Buckets, paces: [Option<Pace>; 2]) {
        let wall = self.shared.latest();
        pace::publish(self.counter, self.rights.terms.slot(wall), paces, |level| {
            // The level is read by the paces before, which the level alone knows from here on.
            let purse = purse_at(self.shared, self.site(), buckets, 1, (level, wall));
            Level::new(level.reuse(), BucketTime::civil(wall), purse.debt)
        });
    }

    /// Takes up to `at_most` of a bucket's tokens, to be spent elsewhere by the end of the slot that `out` names, while
    /// as much as that says is out already. Returns what was taken.
    pub fn take_tokens(&self, buckets: &Buckets, at_most: u64, out: Out) -> u64 {
        let wall = self.shared.latest();
        self.publish_out(buckets, out, 0);
        loop {
            let purse = purse(self.shared, self.site(), buckets, 1, wall);
            let taken = at_most.min(purse.tokens());
            if taken == 0 {
                return 0;
            }
            // Before the level moves: whoever finds the new level finds this too.
            self.counter.publish_out(out.slot, out.amount.saturating_add(taken));
            let debt = purse.debt.saturating_add(purse.time.saturating_mul(taken));
            if self.counter.advance_level(purse.seen, Level::new(purse.seen.reuse(), purse.at, debt)) {
                return taken;
            }
            self.counter.publish_out(out.slot, out.amount);
        }
    }

    /// What is left of units that were borrowed for a slot of a bucket.
    pub fn borrowed_left(&self, slot: u64) -> u64 {
        self.counter.borrowed(slot).saturating_sub(self.counter.used(slot))
    }

    fn site(&self) -> Site<'a> {
        Site { rights: self.rights, counter: self.counter, key: self.key, place: None }
    }

    /// Puts back what was withdrawn and did not leave. Returns whether the slot was still open.
    pub fn restore(&self, slot: u64, amount: u64) -> bool {
        self.counter.restore(slot, amount)
    }

    /// Raises the use of `slot` to at least `amount`: what a process before may have spent.
    pub fn raise_used(&self, slot: u64, amount: u64) {
        self.counter.raise_used(slot, amount);
    }

    /// Publishes what the other regions spent in `slot`.
    pub fn publish_others(&self, slot: u64, amount: u64) {
        self.counter.publish_others(slot, amount);
    }

    /// Units refused since this was last asked: demand beyond the rights.
    pub fn take_refused(&self) -> u64 {
        self.counter.take_refused()
    }
}
