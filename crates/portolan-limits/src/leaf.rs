//! The state machine's side of one key's entry: what it may read, publish, take away and put back. Decides nothing; every
//! call is a few atomic steps, and workers go on charging the same entry meanwhile.

use crate::{
    counter::{Allowance, Counter},
    key::Key,
    rights::Rights,
    shared::Shared,
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

    /// Publishes how much of `slot` may be used before a worker asks for attention, so that the next chunk comes in time.
    /// For keys that another node owns.
    pub fn publish_low_water(&self, slot: u64, amount: u64) {
        self.counter.publish_low_water(slot, amount);
    }

    /// Takes up to `at_most` of what `rights` leave in `slot`, to be lent, granted or handed back; begins a slot that is
    /// to come. Returns what was taken: it cannot be spent here any more. 0 for a slot that is over.
    pub fn withdraw(&self, slot: u64, at_most: u64, rights: u64) -> u64 {
        self.counter.withdraw(slot, at_most, rights, self.rights.start(slot))
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
