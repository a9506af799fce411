//! The common answer in as few steps as possible: yes, from what this node may use of the slot anyway. It is the general
//! decision ([`spend`](crate::spend)) with what is mostly so taken for granted: all regions are heard, no process before
//! can have spent the slot, nothing is carried over from the one before, nothing has to be asked for. Whatever is not plain
//! goes the general way: this never refuses, never waits, and charges nothing that the general decision would not.
//!
//! Few steps are what makes a decision quick. Nearly all of its time is one miss, that of the entry, and a processor begins
//! the misses of the next decisions only while the steps between fit its window of some hundred.

use std::sync::Arc;

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    counter::Counter,
    definition::{Even, Kind, Share, Slots},
    key::Key,
    peers::Mode,
    rights::{Live, Rights},
    shared::Shared,
    verdict::{Charge, ChargeReceipt, Claim, Spot, WaitReason},
};

/// What a plain decision reads of a limit, close together.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    pub limit: LimitId,
    /// Slots of equal length, each counted from nothing.
    by_slots: bool,
    /// Counted by what is in flight, in one slot.
    endless: bool,
    /// What may be said beside the rights of an own counter.
    tags: Tags,
    even: Even,
    share: Share,
    /// What needs no mark.
    unmarked: u64,
    /// How far below its rights a counter of a marked limit asks for more.
    margin: u64,
    live: Arc<Live>,
}

impl Plain {
    pub fn new(rights: &Rights) -> Self {
        let terms = &rights.terms;
        let even = match terms.slots {
            Slots::Even(even) => Some(even),
            Slots::Endless => Some(Even::ENDLESS),
            Slots::Civil(_) => None,
        };
        Self {
            limit: rights.id,
            by_slots: even.is_some() && matches!(terms.kind, Kind::Fixed | Kind::Concurrency),
            endless: terms.kind == Kind::Concurrency,
            tags: if terms.marked() { Tags::of(&[None, Some(WaitReason::Mark)]) } else { Tags::of(&[None, BORROW]) },
            even: even.unwrap_or(Even::ENDLESS),
            share: terms.share(),
            unmarked: if terms.marked() { terms.allowance } else { u64::MAX },
            margin: if terms.marked() { terms.chunk / 2 + 1 } else { 0 },
            live: Arc::clone(&rights.live),
        }
    }

    /// Charges a claim if that is plain.
    #[inline(always)]
    pub fn spend(&self, shared: &Shared, claim: &Claim, wall: WallTime) -> Option<Charge> {
        let Claim { key, cost, .. } = *claim;
        let place = shared.table.likely(key).filter(|_| self.by_slots)?;
        let counter = shared.table.counter(place);
        let slot = self.even.slot(wall.as_unix_millis());
        // Before anything else of the entry and of this node's state: see there.
        let word = counter.word(slot);
        let open = word.open_for(slot)?;
        let Room { free, rights } = self.room(shared, key, counter, slot, wall)?;
        let after = open.amount() + u64::from(cost);
        // The amount of a word that bars the path is more than any rights.
        if after > free || !counter.is_of(key) || !counter.replace(slot, word, open.plus(cost)) {
            return None;
        }
        shared.table.note_move(place);
        Some(Charge {
            limit: self.limit,
            cost,
            slot,
            remaining: rights - after,
            shadow_refused: false,
            reuse: word.reuse(),
            charged_at: wall,
            receipt: Some(ChargeReceipt { key, time: 0, spot: Spot::Entry(place) }),
        })
    }

    /// What may be used of a slot, if things stand plainly.
    #[inline(always)]
    fn room(&self, shared: &Shared, key: Key, counter: &Counter, slot: u64, wall: WallTime) -> Option<Room> {
        let (gate, begin) = (shared.gates.of(key), self.even.begin(slot));
        let horizon = gate.horizon();
        let open = match self.endless {
            true => wall < gate.flow(),
            false => gate.is_untouched(begin) && horizon.is_none_or(|horizon| begin < horizon),
        };
        if !open || self.live.mode() != Mode::Healthy || !self.live.may_spend(begin) {
            return None;
        }
        let (base, foreign) = (self.share.of(slot), horizon.is_none());
        let Some((tag, amount)) = counter.published(slot) else {
            let room = Room { free: base.min(self.unmarked).checked_sub(self.margin)?, rights: base };
            return (!foreign).then_some(room);
        };
        if foreign {
            // What is asked for in time stands beside it.
            let free = amount.min(counter.others(slot).wrapping_sub(1));
            return FOREIGN_TAGS.has(tag).then_some(Room { free, rights: amount });
        }
        let free = amount.max(base.min(self.unmarked)).checked_sub(self.margin)?;
        self.tags.has(tag).then_some(Room { free, rights: amount.max(base) })
    }
}

/// What may be used of a slot: without anything to be asked for, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free: u64,
    rights: u64,
}

/// Some of the things that may be said beside rights, by their tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tags(u8);

impl Tags {
    const fn of(reasons: &[Option<WaitReason>]) -> Self {
        let (mut tags, mut at) = (0, 0);
        while at < reasons.len() {
            tags |= 1 << WaitReason::tag(reasons[at]);
            at += 1;
        }
        Self(tags)
    }

    #[inline]
    const fn has(self, tag: u64) -> bool {
        self.0 >> tag & 1 == 1
    }
}

const BORROW: Option<WaitReason> = Some(WaitReason::Borrow);

const FOREIGN_TAGS: Tags = Tags::of(&[None, BORROW, Some(WaitReason::Owner)]);
