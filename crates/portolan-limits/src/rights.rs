//! What a region may spend from one limit: its share under `static` and `closed`, and under `open`, while a region is not
//! heard, what the merged view leaves of the whole quota. A pure decision over values read elsewhere; charges nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use portolan_config::{LimitId, OnPartition};
use portolan_model::{Name, WallTime};

use crate::{
    counter::Counter,
    definition::{Definition, Terms},
    horizon::Barrier,
    peers::Mode,
    verdict::{Charge, Denial, DenyReason},
};

/// One limit in one generation, as the request path reads it.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    pub id: LimitId,
    pub generation: u32,
    pub name: Name,
    pub terms: Terms,
    pub on_partition: OnPartition,
    pub expose_slot: bool,
    /// What outlives a generation.
    pub live: Arc<Live>,
}

/// The moving parts of a limit, shared by all its generations.
#[derive(Debug)]
pub(crate) struct Live {
    mode: AtomicU8,
    /// The counter of all keys that found no room in the table.
    pub overflow: Counter,
    /// Its ceiling holds for every key of the limit: set when there are too many keys for marks of their own.
    pub every: Counter,
    /// The overflow counter moved since the state machine last looked.
    overflow_moved: AtomicBool,
}

/// What a decision about one counter in one slot reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub slot: u64,
    pub spent: u64,
    pub others: u64,
    /// Highest spend that durable marks allow.
    pub ceiling: u64,
    pub mode: Mode,
}

/// Why one more unit may not be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Deny(DenyReason),
    /// Only a durable mark is missing.
    Unmarked,
}

impl Rights {
    pub fn new(definition: &Definition, terms: Terms, live: Arc<Live>) -> Self {
        Self {
            id: definition.id,
            generation: definition.generation,
            name: definition.name.clone(),
            terms,
            on_partition: definition.on_partition,
            expose_slot: definition.expose_slot,
            live,
        }
    }

    /// Whether one more unit may be spent.
    pub fn decide(&self, view: View) -> Result<(), Refusal> {
        if self.on_partition == OnPartition::Closed && view.mode != Mode::Healthy {
            return Err(Refusal::Deny(DenyReason::Closed));
        }
        if self.remaining(view) == 0 {
            let reached = view.spent.saturating_add(view.others) >= self.terms.quota;
            let in_force = view.mode != Mode::Degraded || reached;
            return Err(Refusal::Deny(if in_force { DenyReason::Exhausted } else { DenyReason::Degraded }));
        }
        if view.spent >= view.ceiling { Err(Refusal::Unmarked) } else { Ok(()) }
    }

    /// What may still be spent in the view's slot, durable marks aside.
    pub fn remaining(&self, view: View) -> u64 {
        if self.opened(view.mode) {
            self.terms.quota.saturating_sub(view.spent).saturating_sub(view.others)
        } else {
            self.terms.base.saturating_sub(view.spent)
        }
    }

    /// What any key may spend in `slot` on the marks that are durable for all keys.
    pub fn allowance(&self, slot: u64) -> u64 {
        self.live.every.ceiling(slot).unwrap_or(0).max(self.terms.allowance)
    }

    /// What counts as spent at the first touch of a key in `slot`.
    pub fn start(&self, barrier: &Barrier, slot: u64) -> u64 {
        if barrier.touches(&self.terms, slot) { self.allowance(slot) } else { 0 }
    }

    /// Highest spend of a counter in `slot` that durable marks allow.
    pub fn ceiling(&self, counter: &Counter, slot: u64) -> u64 {
        if self.terms.marked() { counter.ceiling(slot).unwrap_or(0).max(self.allowance(slot)) } else { u64::MAX }
    }

    /// The most this region may ever spend in a slot in `mode`.
    pub fn cap(&self, mode: Mode) -> u64 {
        if self.opened(mode) { self.terms.quota } else { self.terms.base }
    }

    fn opened(&self, mode: Mode) -> bool {
        matches!(self.on_partition, OnPartition::Open { .. }) && mode == Mode::Degraded
    }

    pub fn charge(&self, view: View, wall: WallTime) -> Charge {
        Charge {
            limit: self.id,
            name: self.name.clone(),
            slot: view.slot,
            quota: self.terms.quota,
            window: self.window(),
            remaining: self.remaining(view),
            resets_in: self.terms.end(view.slot).since(wall),
            expose_slot: self.expose_slot,
        }
    }

    pub fn denial(&self, slot: u64, reason: DenyReason, retry_after: Duration) -> Denial {
        Denial {
            limit: self.id,
            name: self.name.clone(),
            reason,
            slot,
            quota: self.terms.quota,
            window: self.window(),
            remaining: 0,
            retry_after,
            expose_slot: self.expose_slot,
        }
    }

    pub fn window(&self) -> Duration {
        Duration::from_millis(self.terms.window_ms)
    }
}

impl Live {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode: AtomicU8::new(mode as u8),
            overflow: Counter::default(),
            every: Counter::default(),
            overflow_moved: AtomicBool::new(false),
        }
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

    pub fn mode(&self) -> Mode {
        match self.mode.load(SeqCst) {
            0 => Mode::Healthy,
            1 => Mode::Healing,
            _ => Mode::Degraded,
        }
    }

    pub fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(on_partition: OnPartition) -> Rights {
        let definition = Definition {
            id: LimitId(1),
            generation: 1,
            name: Name::new("per-user").expect("a name"),
            rate: "90/s".parse().expect("a rate"),
            on_partition,
            expose_slot: false,
        };
        Rights::new(&definition, Terms::new(definition.rate, 0, 3), Arc::new(Live::new(Mode::Healthy)))
    }

    #[test]
    fn a_refusal_names_whether_the_limit_or_our_state_refused() {
        use DenyReason::{Closed, Degraded, Exhausted};
        use Mode::{Degraded as Cut, Healing, Healthy};
        use OnPartition::{Closed as ClosedPolicy, Static};
        const OPEN: OnPartition = OnPartition::OPEN;
        let check = |on_partition, mode, spent, others, expected: Result<(), DenyReason>| {
            let view = View { slot: 1, spent, others, ceiling: u64::MAX, mode };
            let expected = expected.map_err(Refusal::Deny);
            assert_eq!(rights(on_partition).decide(view), expected, "{on_partition:?} {mode:?} {spent} {others}");
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
    }

    #[test]
    fn spend_stops_at_the_durable_ceiling() {
        let at = |spent| View { slot: 1, spent, others: 0, ceiling: 5, mode: Mode::Healthy };
        assert_eq!(rights(OnPartition::Static).decide(at(4)), Ok(()));
        assert_eq!(rights(OnPartition::Static).decide(at(5)), Err(Refusal::Unmarked));
    }
}
