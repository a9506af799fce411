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
