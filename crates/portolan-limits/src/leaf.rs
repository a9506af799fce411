//! The state machine's side of one key's entry: what it may read, publish, take away and put back. Decides nothing; every
//! call is a few atomic steps, and workers go on charging the same entry meanwhile.

use portolan_model::WallTime;

use crate::{
    bucket::Level,
    counter::{Allowance, Counter},
    definition::{Buckets, Kind},
    drip::purse,
    key::Key,
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
    /// Of a bucket, what is taken comes back to it with time, so its burst must shrink by what is out
    /// ([`publish_others`](Self::publish_others) for slot 0) before this is called; `slot` and `rights` are not asked.
    pub fn withdraw(&self, slot: u64, at_most: u64, rights: u64) -> u64 {
        let latest = self.shared.latest();
        match &self.rights.terms.kind {
            Kind::Bucket(buckets) if self.shared.owns(self.key) => self.take_tokens(buckets, at_most, latest),
            Kind::Sliding if slot > self.rights.terms.slot(latest) => {
                // The word still counts the slot before the present one, which carries over.
                let before = slot.saturating_sub(2);
                let used = self.counter.seal(before, self.rights.carried_unseen(self.shared, self.key, before));
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

    /// Whole tokens that are in a bucket; none for other algorithms.
    pub fn tokens(&self) -> Option<u64> {
        let Kind::Bucket(buckets) = &self.rights.terms.kind else { return None };
        let view = purse(self.shared, self.site(), buckets, 1, self.shared.latest()).view;
        Some(view.rights.amount - view.used)
    }

    fn take_tokens(&self, buckets: &Buckets, at_most: u64, wall: WallTime) -> u64 {
        loop {
            let purse = purse(self.shared, self.site(), buckets, 1, wall);
            let taken = at_most.min(purse.view.rights.amount - purse.view.used);
            let next =
                Level::new(purse.seen.reuse(), wall, purse.debt.saturating_add(purse.time.saturating_mul(taken)));
            if taken == 0 || self.counter.advance_level(purse.seen, next) {
                return taken;
            }
        }
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

    /// Publishes what the other regions spent in `slot`; of a bucket, for slot 0, what is out on loan.
    pub fn publish_others(&self, slot: u64, amount: u64) {
        self.counter.publish_others(slot, amount);
    }

    /// Units refused since this was last asked: demand beyond the rights.
    pub fn take_refused(&self) -> u64 {
        self.counter.take_refused()
    }
}
