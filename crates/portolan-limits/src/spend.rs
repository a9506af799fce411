//! Charges one unit to one counter, or says why not. Reads the words that the decision needs, decides, and moves the own
//! word by one compare-and-swap; more only when other threads charge the same counter at the same instant.

use portolan_model::WallTime;

use crate::{
    counter::{Counter, Receipt},
    rights::{Refusal, Rights, View},
    shared::Shared,
    verdict::{Charge, Denial, DenyReason},
    word::{Age, Word},
};

/// A unit charged, which can still be given back.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    rights: &'a Rights,
    counter: &'a Counter,
    receipt: Receipt,
    view: View,
    wall: WallTime,
}

/// A unit not charged.
#[derive(Debug)]
pub(crate) enum Turned<'a> {
    Denied {
        rights: &'a Rights,
        slot: u64,
        reason: DenyReason,
        retry_after: std::time::Duration,
    },
    /// The horizon is not durable yet, or the limit is not known.
    Wait,
    /// The counter needs a durable mark.
    Unmarked,
    /// The entry is another key's by now: look the key up again.
    KeyChanged,
}

/// `mine` tells whether the counter is still the key's; it is asked between reading the word and moving it.
pub(crate) fn spend<'a>(
    shared: &Shared,
    rights: &'a Rights,
    counter: &'a Counter,
    mine: impl Fn() -> bool,
    mut wall: WallTime,
) -> Result<Held<'a>, Turned<'a>> {
    loop {
        let word = counter.own();
        if word.is_changing_key() || !mine() {
            return Err(Turned::KeyChanged);
        }
        let slot = rights.terms.slot(wall);
        check_slot(shared, rights, slot, wall)?;
        let age = word.age(slot);
        if age == Age::Ahead {
            // Another thread read a later clock and began the next slot while this one was held up.
            let latest = shared.latest();
            if rights.terms.slot(latest) == slot {
                return Err(denied(rights, slot, DenyReason::Degraded, rights.terms.end(slot), wall));
            }
            wall = latest;
            continue;
        }
        let view = view(shared, rights, counter, word, slot);
        match rights.decide(view) {
            Ok(()) => {
                if let Some(receipt) = counter.advance(word, slot, view.spent + 1) {
                    let view = View { spent: view.spent + 1, ..view };
                    return Ok(Held { rights, counter, receipt, view, wall });
                }
            }
            Err(Refusal::Deny(reason)) => return Err(denied(rights, slot, reason, rights.terms.end(slot), wall)),
            Err(Refusal::Unmarked) => {
                // The state machine reads from the word which slot wants a mark.
                if age == Age::Same || counter.advance(word, slot, view.spent).is_some() {
                    return Err(Turned::Unmarked);
                }
            }
        }
    }
}

/// Refuses slots that a process before may have spent, and those that no durable horizon covers.
pub(crate) fn check_slot<'a>(shared: &Shared, rights: &'a Rights, slot: u64, wall: WallTime) -> Result<(), Turned<'a>> {
    if let Some(opens) = shared.barrier.bars(&rights.terms, slot) {
        return Err(denied(rights, slot, DenyReason::Degraded, opens, wall));
    }
    if rights.terms.begin(slot) < shared.horizon() { Ok(()) } else { Err(Turned::Wait) }
}

/// Everything the decision about a counter reads.
pub(crate) fn view(shared: &Shared, rights: &Rights, counter: &Counter, word: Word, slot: u64) -> View {
    let spent = if word.age(slot) == Age::Same { word.spent() } else { rights.start(&shared.barrier, slot) };
    let ceiling = rights.ceiling(counter, slot);
    View { slot, spent, others: counter.others(slot), ceiling, mode: rights.live.mode() }
}

impl Held<'_> {
    pub fn give_back(&self) {
        self.counter.give_back(self.receipt);
    }

    pub fn charge(&self) -> Charge {
        self.rights.charge(self.view, self.wall)
    }

    /// Whether the counter has just come so close to its durable ceiling that a mark should be on its way.
    pub fn wants_mark(&self) -> bool {
        let left = self.view.ceiling - self.view.spent;
        left == self.rights.terms.chunk / 2 && self.view.ceiling < self.rights.cap(self.view.mode)
    }
}

impl Turned<'_> {
    pub fn denial(&self) -> Option<Denial> {
        match self {
            Self::Denied { rights, slot, reason, retry_after } => Some(rights.denial(*slot, *reason, *retry_after)),
            Self::Wait | Self::Unmarked | Self::KeyChanged => None,
        }
    }
}

fn denied(rights: &Rights, slot: u64, reason: DenyReason, retry_at: WallTime, wall: WallTime) -> Turned<'_> {
    Turned::Denied { rights, slot, reason, retry_after: retry_at.since(wall) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portolan_config::{LimitId, OnPartition};
    use portolan_model::{HashKey, Name, Now};

    use super::*;
    use crate::{
        Definition, Key, Recovery, definition::Terms, horizon::Barrier, peers::Mode, rights::Live, table::Tenant,
    };

    fn at(slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot * 1000)
    }

    fn rights() -> Rights {
        let definition = Definition {
            id: LimitId(1),
            generation: 1,
            name: Name::new("per-user").expect("a name"),
            rate: "3/s".parse().expect("a rate"),
            on_partition: OnPartition::Static,
            expose_slot: false,
        };
        Rights::new(&definition, Terms::new(definition.rate, 0, 1), Arc::new(Live::new(Mode::Healthy)))
    }

    #[test]
    fn a_charge_meant_for_the_key_before_fails_when_the_entry_has_changed_its_key() {
        let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
        let shared = Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default());
        shared.raise_horizon(at(100));
        let rights = rights();
        let enter = |key, slot| {
            let tenant = Tenant { key, limit: LimitId(1), window_ms: 1000 };
            shared.table.enter(tenant, at(slot), || (slot, 0), Some, || None)
        };
        let key = |n: u64| Key::from_bits(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let old = key(1);
        let place = enter(old, 5).expect("there is room");
        let late = || spend(&shared, &rights, shared.table.counter(place), || shared.table.holds(place, old), at(9));
        assert!(late().is_ok());
        // Fill the table with the next slots' keys until the entry is another key's.
        let next = (2..1000).find(|&n| enter(key(n), 20) == Some(place)).expect("the entry is reused");
        assert!(matches!(late(), Err(Turned::KeyChanged)));
        assert_eq!((shared.table.find(key(next)), shared.table.counter(place).own().spent()), (Some(place), 0));
    }

    #[test]
    fn a_thread_with_an_earlier_clock_charges_the_slot_that_has_begun() {
        let barrier = Barrier::new(&Recovery::FirstStart, Now::default());
        let shared = Shared::new(HashKey::new([7; 16]), 8, barrier, Now::default());
        shared.raise_horizon(at(100));
        let (rights, counter) = (rights(), Counter::default());
        let charged = |wall| spend(&shared, &rights, &counter, || true, wall).ok().map(|held| held.charge().slot);
        shared.raise_clock(at(8));
        assert_eq!((charged(at(8)), charged(at(7)), charged(at(8)), charged(at(7))), (Some(8), Some(8), Some(8), None));
    }
}
