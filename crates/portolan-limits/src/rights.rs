//! What a region may spend from one limit: its share under `static` and `closed`, and under `open`, while a region is not
//! heard, what the merged view leaves of the whole quota; and what the state machine publishes beyond that. A pure
//! decision over values read elsewhere; charges nothing.

use std::{sync::Arc, time::Duration};

use portolan_config::{LimitId, OnPartition};
use portolan_model::{Name, WallTime};

use crate::{
    bucket::{Bucket, BucketTime, Level, to_fractions},
    counter::{Allowance, Aux, Counter, Receipt, Start},
    definition::{Definition, Kind, Terms, open_share},
    drip::lapse,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    pace::RateSlots,
    peers::Mode,
    shared::Shared,
    sync::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst},
    verdict::{Charge, ChargeReceipt, Denial, DenyReason, MARK_WAIT, OWNER_WAIT, Policy, Wait, WaitReason},
    word::Published,
};

/// One limit in one generation, as the request path reads it.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    pub id: LimitId,
    pub generation: u32,
    pub name: Name,
    pub terms: Terms,
    pub on_partition: OnPartition,
    pub borrow_wait: Duration,
    pub shadow: bool,
    pub expose_slot: bool,
    /// What outlives a generation.
    pub live: Arc<Live>,
}

/// The moving parts of a limit, shared by all its generations.
#[derive(Debug)]
pub(crate) struct Live {
    mode: AtomicU8,
    /// This side of a partition holds at most half of the shares.
    minority: AtomicBool,
    /// The counter of all keys of this node that found no room in the table. What it may spend beyond what needs no mark
    /// takes a mark of every key: whoever comes after counts that much of any of them.
    pub overflow: Counter,
    /// What each key may spend in a slot, by a mark for all of them: set when there are too many for marks of their own.
    allowance: [AtomicU64; 2],
    /// What any key may have spent in a slot under such marks before this node owned it, by the parity of the slot.
    assumed: [AtomicU64; 2],
    /// The overflow counter moved since the state machine last looked.
    overflow_moved: AtomicBool,
    /// Of a bucket: what is lent of a slot.
    pub rate_slots: RateSlots,
    /// Only slots that begin before this may be spent: the region's lease.
    lease: AtomicU64,
    /// The same while all regions are heard, else 0: what most decisions read of these.
    calm: AtomicU64,
}

/// What a decision about one counter in one slot reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub slot: u64,
    pub used: u64,
    pub others: u64,
    pub rights: Allowance,
    pub mode: Mode,
    /// What of the slot before still counts, in a sliding window.
    pub carried: u64,
}

/// How a limit stands here in one slot of one key, beside its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub mode: Mode,
    /// Another node owns the key.
    pub foreign: bool,
    /// No process before can have spent the slot.
    pub untouched: bool,
}

/// Why units may not be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Deny(DenyReason),
    /// More may come; the reason of a refusal when it does not.
    Wait(WaitReason, DenyReason),
}

impl Rights {
    pub fn new(definition: &Definition, terms: Terms, live: Arc<Live>) -> Self {
        Self {
            id: definition.id,
            generation: definition.generation,
            name: definition.name.clone(),
            on_partition: definition.on_partition,
            borrow_wait: definition.borrow_wait,
            shadow: definition.shadow,
            expose_slot: definition.expose_slot,
            live,
            terms,
        }
    }

    /// Whether `cost` more units may be spent.
    #[inline(always)]
    pub fn decide(&self, view: View, cost: u64) -> Result<(), Refusal> {
        if self.closed(view.mode) {
            return Err(Refusal::Deny(DenyReason::Closed));
        }
        if view.used.saturating_add(cost) <= view.rights.amount {
            return Ok(());
        }
        let reached = view.used.saturating_add(view.others).saturating_add(cost) > self.terms.quota;
        let in_force = view.mode != Mode::Degraded || reached;
        let reason = if in_force { DenyReason::Exhausted } else { DenyReason::Degraded };
        match view.rights.pending {
            Some(_) if cost > self.terms.quota => Err(Refusal::Deny(DenyReason::Exhausted)),
            Some(wait @ (WaitReason::Mark | WaitReason::Owner)) => Err(Refusal::Wait(wait, DenyReason::Degraded)),
            Some(wait @ WaitReason::Borrow) if !reached => Err(Refusal::Wait(wait, reason)),
            _ => Err(Refusal::Deny(reason)),
        }
    }

    /// What may still be spent in the view's slot, durable marks aside.
    #[inline(always)]
    pub fn remaining(&self, view: View) -> u64 {
        let marked_up = view.rights.pending == Some(WaitReason::Mark);
        let most = if marked_up { self.cap(view.mode, view.slot, view.others) } else { 0 };
        view.rights.amount.max(most).saturating_sub(view.used)
    }

    /// What may be used of `slot` at most.
    #[inline(always)]
    pub fn allowance(&self, shared: &Shared, counter: &Counter, key: Key, slot: u64) -> Allowance {
        self.allowance_of(self.standing(shared, key, slot), counter, slot)
    }

    /// The same for a standing that was read.
    #[inline(always)]
    pub fn allowance_of(&self, standing: Standing, counter: &Counter, slot: u64) -> Allowance {
        let initial = self.initial(standing, counter, slot);
        match counter.rights(slot) {
            // How fast a bucket fills is no right.
            Some(Allowance { pending: Some(WaitReason::Mark), .. }) if matches!(self.terms.kind, Kind::Bucket(_)) => {
                initial
            }
            Some(published) if published.amount >= initial.amount => {
                // Since it was published a new generation may have raised the share, for which a mark can be had.
                let markable = self.terms.marked() && published.amount < self.terms.base(slot);
                let mark = (markable && initial.pending == Some(WaitReason::Mark)).then_some(WaitReason::Mark);
                let published = Allowance { pending: published.pending.or(mark), ..published };
                self.within_view(published, standing.mode, counter, slot)
            }
            _ => initial,
        }
    }

    #[inline]
    pub fn standing(&self, shared: &Shared, key: Key, slot: u64) -> Standing {
        let gate = shared.gates.of(key);
        Standing {
            mode: self.live.mode(),
            foreign: gate.is_foreign(),
            untouched: gate.is_untouched(self.terms.begin(slot)),
        }
    }

    /// What may be used of a slot for which nothing was published: a function of the terms, the mode and the ownership.
    #[inline(always)]
    fn initial(&self, standing: Standing, counter: &Counter, slot: u64) -> Allowance {
        let Standing { mode, foreign, .. } = standing;
        if foreign {
            return Allowance { amount: 0, pending: Some(WaitReason::Owner) };
        }
        if matches!(self.terms.kind, Kind::Bucket(_)) {
            // The slots of a bucket hold what was borrowed.
            return Allowance { amount: 0, pending: self.borrowing(mode) };
        }
        let cap =
            if mode == Mode::Degraded { self.cap(mode, slot, counter.others(slot)) } else { self.terms.base(slot) };
        let unmarked = if self.terms.marked() { self.unmarked(slot) } else { cap };
        if unmarked < cap {
            return Allowance { amount: unmarked, pending: Some(WaitReason::Mark) };
        }
        Allowance { amount: cap, pending: self.borrowing(mode) }
    }

    /// Whether rate is lent of a slot, and not what may be used of it.
    pub fn lends_rate(&self, slot: u64) -> bool {
        matches!(self.terms.kind, Kind::Bucket(_)) && self.live.rate_slots.contains(slot)
    }

    /// What a request that finds the rights used up may wait for.
    #[inline]
    pub fn borrowing(&self, mode: Mode) -> Option<WaitReason> {
        (!self.borrow_wait.is_zero() && mode != Mode::Degraded).then_some(WaitReason::Borrow)
    }

    /// The level of a bucket that was never asked: full, but for what the process before may have taken; and what that
    /// process lent or granted can be spent to the end of its last slot, by a clock that is behind.
    pub fn first_level(&self, shared: &Shared, key: Key, bucket: &Bucket, wall: WallTime) -> Level {
        let last_spent = shared.gates.of(key).barrier().last_spent();
        if last_spent == WallTime::default() {
            return Level::new(0, BucketTime::civil(wall), 0);
        }
        let drained_at = self.terms.begin(self.terms.slots.beginning_from(last_spent)) + CLOCK_TOLERANCE;
        let until = to_fractions(drained_at.since(wall));
        let since = to_fractions(wall.since(drained_at));
        Level::new(0, BucketTime::civil(wall), (bucket.burst() + until).saturating_sub(since))
    }

    /// Prepares an entry of a bucket, with rate `on_loan` or not, for the end of the slots that stand in it; nothing for others.
    pub fn lapse(&self, counter: &Counter, on_loan: bool, wall: WallTime) {
        if let Kind::Bucket(buckets) = &self.terms.kind {
            let bucket = self.terms.bucket(buckets, self.terms.slot(wall), false);
            lapse(&self.terms, counter, &bucket, on_loan, wall);
        }
    }

    /// What any key may spend in `slot` on the marks that are durable for all keys.
    #[inline]
    pub fn unmarked(&self, slot: u64) -> u64 {
        self.live.allowance(slot).max(self.terms.allowance)
    }

    /// Whether a key that finds no room is charged to the counter that such keys share, which then counts what may have
    /// been spent of this key before. Each node has its own, so only the node that owns the key may ask it.
    pub fn overflow(&self, shared: &Shared, key: Key, wall: WallTime) -> Option<&Counter> {
        let overflow = &self.live.overflow;
        // What is in flight of a key is released one by one, and whoever had it there would not find it in an entry of its own.
        let counts = self.terms.kind != Kind::Concurrency && shared.owns(key);
        counts.then(|| overflow.raise_to(self.beginning(shared, key, wall), wall))?;
        Some(overflow)
    }

    /// What counts as used of a slot of which nothing is counted here: what a key without a mark can have spent, if anybody
    /// can before this node owned it. What was in flight, and tokens that were borrowed, are gone with whoever had them.
    pub fn start(&self, shared: &Shared, key: Key, slot: u64) -> u64 {
        match self.terms.kind {
            Kind::Bucket(_) | Kind::Concurrency => 0,
            _ if !self.was_touched(shared, key, slot) => 0,
            Kind::Fixed | Kind::Sliding if self.terms.marked() => {
                let assumed = self.live.assumed(slot).unwrap_or_else(|| self.terms.base(slot));
                assumed.max(self.terms.presumed)
            }
            Kind::Fixed => self.terms.base(slot),
            // Of this a later slot counts what is carried over: it may have been borrowed from everybody.
            Kind::Sliding => self.terms.quota,
        }
    }

    /// Whether a slot of a key may have been spent before this node owned it.
    #[inline]
    pub fn was_touched(&self, shared: &Shared, key: Key, slot: u64) -> bool {
        let gate = shared.gates.of(key);
        !gate.is_foreign() && gate.barrier().reaches(self.terms.begin(slot))
    }

    /// What an entry of a key begins with that is made at `wall`.
    pub fn beginning(&self, shared: &Shared, key: Key, wall: WallTime) -> Start {
        self.beginning_in(shared, key, self.terms.slot(wall), wall)
    }

    /// What an entry begins with in `slot`. A key that was charged to the overflow counter there may not start afresh.
    pub fn beginning_in(&self, shared: &Shared, key: Key, slot: u64, wall: WallTime) -> Start {
        let overflow = &self.live.overflow;
        let used = [slot, slot + 1].map(|slot| overflow.used(slot).max(self.start(shared, key, slot)));
        let aux = match &self.terms.kind {
            Kind::Fixed | Kind::Concurrency => Aux::None,
            Kind::Sliding => {
                let before = slot.wrapping_sub(1);
                Aux::Carried(overflow.used(before).max(self.start(shared, key, before)))
            }
            Kind::Bucket(buckets) => {
                let of_all = overflow.level();
                let fresh = self.first_level(shared, key, &self.terms.bucket(buckets, slot, false), wall);
                let wall = BucketTime::civil(wall);
                let lower = of_all.was_asked() && of_all.debt(wall) > fresh.debt(wall);
                Aux::Level(if lower { of_all } else { fresh })
            }
        };
        Start { slot, used, aux }
    }

    /// The part of a charge that `units` of it were.
    pub fn part_of(&self, receipt: Receipt, units: u32, cost: u32) -> Receipt {
        Receipt { time: receipt.time / u64::from(cost.max(1)) * u64::from(units), ..receipt }
    }

    /// The most this region may spend of a slot in `mode` on its own account.
    #[inline]
    pub fn cap(&self, mode: Mode, slot: u64, others: u64) -> u64 {
        let base = self.terms.base(slot);
        match self.on_partition {
            _ if mode != Mode::Degraded => base,
            OnPartition::Open { cap: None } => self.terms.quota.saturating_sub(others),
            other => open_share(other, self.terms.quota, base),
        }
    }

    /// A durable mark says what may be on disk, not what the merged view leaves.
    #[inline]
    fn within_view(&self, published: Allowance, mode: Mode, counter: &Counter, slot: u64) -> Allowance {
        if mode == Mode::Degraded && self.is_open() && self.terms.marked() {
            let most = self.cap(mode, slot, counter.others(slot));
            return Allowance { amount: published.amount.min(most), ..published };
        }
        published
    }

    /// Whether more than the own share is admitted while a region is not heard.
    pub fn is_open(&self) -> bool {
        matches!(self.on_partition, OnPartition::Open { .. })
    }

    /// Whether nothing at all is admitted.
    #[inline]
    pub fn closed(&self, mode: Mode) -> bool {
        match self.on_partition {
            _ if mode == Mode::Healthy => false,
            OnPartition::Closed => true,
            OnPartition::ClosedMinority => self.live.minority(),
            OnPartition::Static | OnPartition::Open { .. } => false,
        }
    }

    #[inline(always)]
    pub fn charge(&self, view: View, cost: u32, reuse: u8, receipt: ChargeReceipt, wall: WallTime) -> Charge {
        Charge {
            limit: self.id,
            cost,
            slot: view.slot,
            remaining: self.remaining(view),
            shadow_refused: false,
            reuse,
            charged_at: wall,
            receipt: Some(receipt),
        }
    }

    /// The charge of a limit in shadow that would have refused.
    pub fn shadow_charge(&self, slot: u64, wall: WallTime) -> Charge {
        Charge {
            limit: self.id,
            cost: 0,
            slot,
            remaining: 0,
            shadow_refused: true,
            reuse: 0,
            charged_at: wall,
            receipt: None,
        }
    }

    /// What all charges of a slot have in common.
    pub fn policy(&self, slot: u64) -> Policy<'_> {
        let Self { name, expose_slot, terms, .. } = self;
        Policy { name, quota: terms.quota, window: terms.span(slot), expose_slot: *expose_slot }
    }

    pub fn denial(&self, slot: u64, reason: DenyReason, retry_after: Duration) -> Denial {
        Denial {
            limit: self.id,
            name: self.name.clone(),
            reason,
            slot,
            quota: self.terms.quota,
            window: self.terms.span(slot),
            remaining: 0,
            retry_after,
            expose_slot: self.expose_slot,
        }
    }

    pub fn wait(&self, reason: WaitReason, otherwise: Denial) -> Wait {
        let at_most = match reason {
            WaitReason::Mark => MARK_WAIT,
            WaitReason::Owner => OWNER_WAIT,
            WaitReason::Borrow => self.borrow_wait,
        };
        Wait { reason, at_most, otherwise }
    }
}

impl Live {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode: AtomicU8::new(mode as u8),
            minority: AtomicBool::new(false),
            overflow: Counter::default(),
            allowance: Default::default(),
            assumed: [0, 0].map(AtomicU64::new),
            overflow_moved: AtomicBool::new(false),
            rate_slots: RateSlots::default(),
            lease: AtomicU64::new(u64::MAX),
            calm: AtomicU64::new(calm(mode, u64::MAX)),
        }
    }

    /// Whether the region has a lease of a slot that begins at `begin`. A process that was stopped asks it of the slot that
    /// its clock shows now.
    #[inline]
    pub fn may_spend(&self, begin: WallTime) -> bool {
        begin.as_unix_millis() < self.lease.load(SeqCst)
    }

    /// Whether all regions are heard and the region has a lease of a slot that begins at `begin`.
    #[inline]
    pub fn is_calm(&self, begin: WallTime) -> bool {
        begin.as_unix_millis() < self.calm.load(SeqCst)
    }

    /// Says where the lease ends; a limit without leases has none that does.
    pub fn set_lease(&self, until: Option<WallTime>) {
        let lease = until.map_or(u64::MAX, WallTime::as_unix_millis);
        self.lease.store(lease, SeqCst);
        self.calm.store(calm(self.mode(), lease), SeqCst);
    }

    /// Says that the overflow counter moved.
    pub fn note_overflow(&self, overflowed: &AtomicU64) {
        self.overflow_moved.store(true, SeqCst);
        overflowed.fetch_add(1, SeqCst);
    }

    /// Whether the overflow counter moved since this was last asked.
    pub fn take_overflow_moved(&self) -> bool {
        self.overflow_moved.swap(false, SeqCst)
    }

    #[inline]
    pub fn mode(&self) -> Mode {
        match self.mode.load(SeqCst) {
            0 => Mode::Healthy,
            1 => Mode::Healing,
            _ => Mode::Degraded,
        }
    }

    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, SeqCst);
        self.calm.store(calm(mode, self.lease.load(SeqCst)), SeqCst);
    }

    /// Whether this side of a partition holds at most half of the shares.
    pub fn minority(&self) -> bool {
        self.minority.load(SeqCst)
    }

    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub fn set_minority(&self, minority: bool) {
        self.minority.store(minority, SeqCst);
    }

    /// Raises what each key may spend in `slot` by a durable mark for all of them.
    pub fn raise_allowance(&self, slot: u64, amount: u64) {
        let word = &self.allowance[(slot & 1) as usize];
        if self.allowance(slot) < amount && !Published::is_later(word.load(SeqCst), slot) {
            word.store(Published::new(slot, 0, amount).bits(), SeqCst);
        }
    }

    #[inline(always)]
    fn allowance(&self, slot: u64) -> u64 {
        Published::of(self.allowance[(slot & 1) as usize].load(SeqCst), slot).map_or(0, |(_, amount)| amount)
    }

    /// Counts so much of `slot` as spent of every key, unless a later slot stands there.
    pub fn assume(&self, slot: u64, amount: u64) {
        let assumed = &self.assumed[(slot & 1) as usize];
        if self.assumed(slot).is_some_and(|known| known < amount) {
            assumed.store(Published::new(slot, 0, amount).bits(), SeqCst);
        }
    }

    /// What any key may have spent of `slot`; `None` when that is not known any more.
    fn assumed(&self, slot: u64) -> Option<u64> {
        let bits = self.assumed[(slot & 1) as usize].load(SeqCst);
        match Published::of(bits, slot) {
            Some((_, amount)) => Some(amount),
            None => (!Published::is_later(bits, slot)).then_some(0),
        }
    }

    /// Forgets what belongs to slots other than `current` and its neighbours: see [`Counter::retire`].
    pub fn retire(&self, current: u64) {
        self.overflow.retire(current);
        for word in self.allowance.iter().chain(&self.assumed) {
            let bits = word.load(SeqCst);
            let near = [current.wrapping_sub(1), current, current + 1];
            if !near.iter().any(|&slot| Published::of(bits, slot).is_some()) {
                word.store(0, SeqCst);
            }
        }
    }
}

/// Slots that begin before this are spent as usual.
const fn calm(mode: Mode, lease: u64) -> u64 {
    match mode {
        Mode::Healthy => lease,
        Mode::Healing | Mode::Degraded => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Calendars;

    fn rights(on_partition: OnPartition) -> Rights {
        let definition = Definition { on_partition, ..Definition::of_rate(1, "90/s") };
        let terms = Terms::new(&definition, 0, 3, &mut Calendars::default());
        Rights::new(&definition, terms, Arc::new(Live::new(Mode::Healthy)))
    }

    #[test]
    fn a_refusal_names_whether_the_limit_or_our_state_refused() {
        use DenyReason::{Closed, Degraded, Exhausted};
        use Mode::{Degraded as Cut, Healing, Healthy};
        use OnPartition::{Closed as ClosedPolicy, ClosedMinority, Static};
        const OPEN: OnPartition = OnPartition::OPEN;
        let check = |on_partition, mode, used, others, expected: Result<(), DenyReason>| {
            let rights = rights(on_partition);
            let amount = rights.cap(mode, 1, others);
            let rights_of = Allowance { amount, pending: None };
            let view = View { slot: 1, used, others, rights: rights_of, mode, carried: 0 };
            let expected = expected.map_err(Refusal::Deny);
            assert_eq!(rights.decide(view, 1), expected, "{on_partition:?} {mode:?} {used} {others}");
        };
        check(Static, Healthy, 29, 0, Ok(()));
        check(Static, Healthy, 30, 0, Err(Exhausted));
        check(Static, Healing, 30, 0, Err(Exhausted));
        check(Static, Cut, 29, 60, Ok(()));
        check(Static, Cut, 30, 59, Err(Degraded));
        check(Static, Cut, 30, 60, Err(Exhausted));
        check(OPEN, Healthy, 30, 0, Err(Exhausted));
        check(OPEN, Cut, 30, 59, Ok(()));
        check(OPEN, Cut, 30, 60, Err(Exhausted));
        check(ClosedPolicy, Healthy, 29, 0, Ok(()));
        check(ClosedPolicy, Healing, 0, 0, Err(Closed));
        check(ClosedPolicy, Cut, 0, 0, Err(Closed));
        check(ClosedMinority, Cut, 29, 0, Ok(()));
    }

    #[test]
    fn a_refusal_waits_for_what_may_come_and_never_for_more_than_the_quota() {
        use WaitReason::{Borrow, Mark, Owner};
        let check = |pending, used, others, cost, expected| {
            let rights = rights(OnPartition::Static);
            let amount = Allowance { amount: 5, pending: Some(pending) };
            let view = View { slot: 1, used, others, rights: amount, mode: Mode::Healthy, carried: 0 };
            assert_eq!(rights.decide(view, cost), expected);
        };
        let exhausted = DenyReason::Exhausted;
        check(Mark, 4, 0, 1, Ok(()));
        check(Mark, 5, 0, 1, Err(Refusal::Wait(Mark, DenyReason::Degraded)));
        check(Owner, 4, 0, 2, Err(Refusal::Wait(Owner, DenyReason::Degraded)));
        check(Owner, 0, 0, 91, Err(Refusal::Deny(exhausted)));
        check(Borrow, 5, 84, 1, Err(Refusal::Wait(Borrow, exhausted)));
        check(Borrow, 5, 85, 1, Err(Refusal::Deny(exhausted)));
    }

    #[test]
    fn what_every_key_may_spend_of_a_slot_stays_when_more_is_allowed_of_the_next() {
        let live = Live::new(Mode::Healthy);
        live.raise_allowance(8, 600);
        live.raise_allowance(9, 300);
        live.raise_allowance(8, 700);
        assert_eq!([8, 9].map(|slot| live.allowance(slot)), [700, 300]);
        live.raise_allowance(10, 100);
        live.raise_allowance(8, 900);
        assert_eq!([8, 9, 10].map(|slot| live.allowance(slot)), [0, 300, 100], "a later slot stands there");
    }
}
