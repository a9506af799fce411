//! The common answer in as few steps as possible: yes, from what this node may use of the slot anyway. It is the general
//! decision ([`spend`](crate::spend)) with what is mostly so taken for granted: all regions are heard, no process before
//! can have spent the slot, nothing is carried over from the one before, nothing has to be asked for. Whatever is not plain
//! goes the general way: this never refuses, never waits, and charges nothing that the general decision would not.
//!
//! Few steps are what makes a decision quick. Nearly all of its time is one miss, that of the entry, and a processor begins
//! the misses of later work only while the steps between fit its window: some two hundred, and fewer of those whose results
//! it must keep or that wait for the entry. Hence what is written here so that fewer registers are needed: indices that
//! are checked by `get`, one word for two conditions, rare cases in functions of their own.

use std::sync::Arc;

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    counter::Counter,
    definition::{Even, Kind, Slots},
    rights::{Live, Rights},
    shared::Shared,
    sync::{AtomicU64, Ordering::Relaxed},
    verdict::{Charge, ChargeReceipt, Claim, Spot, WaitReason},
};

/// What a plain decision reads of a limit, close together.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Plain {
    pub limit: LimitId,
    counted: Counted,
    /// What may be said beside the rights of an own counter.
    tags: Tags,
    even: Even,
    /// The slot that was asked of last.
    latest: AtomicU64,
    /// What may be used of slots before `turn`, and from it on.
    rooms: [Room; 2],
    turn: u64,
    /// How far below its rights a counter of a marked limit asks for more.
    margin: u64,
    live: Arc<Live>,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    /// What is asked for in slots of equal length, each from nothing.
    BySlot,
    /// What is in flight, in one slot.
    InFlight,
    /// Anything else: no decision is plain.
    Otherwise,
}

/// What may be used of a slot: without anything to be asked for, and at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    free: u64,
    rights: u64,
}

impl Plain {
    pub fn new(rights: &Rights) -> Self {
        let terms = &rights.terms;
        let (even, counted) = match (&terms.slots, &terms.kind) {
            (Slots::Even(even), Kind::Fixed) => (*even, Counted::BySlot),
            (Slots::Endless, Kind::Concurrency) => (Even::ENDLESS, Counted::InFlight),
            _ => (Even::ENDLESS, Counted::Otherwise),
        };
        let share = terms.share();
        let margin = if terms.marked() { terms.chunk / 2 + 1 } else { 0 };
        // What needs no mark.
        let unmarked = if terms.marked() { terms.allowance } else { u64::MAX };
        let room = |base: u64| Room { free: base.min(unmarked).saturating_sub(margin), rights: base };
        Self {
            limit: rights.id,
            counted,
            tags: if terms.marked() { Tags::of(&[None, Some(WaitReason::Mark)]) } else { Tags::of(&[None, BORROW]) },
            even,
            latest: AtomicU64::new(0),
            rooms: [room(share.before), room(share.after)],
            turn: share.turn,
            margin,
            live: Arc::clone(&rights.live),
        }
    }

    /// Charges a claim if that is plain.
    #[inline(always)]
    pub fn spend(&self, shared: &Shared, claim: &Claim, wall: WallTime) -> Option<Charge> {
        let Claim { key, cost, .. } = *claim;
        let (place, counter) = shared.table.likely(key)?;
        let (slot, begin) = self.slot(wall);
        // Before anything else of the entry and of this node's state: see there.
        let word = counter.word(slot);
        let room = self.room(shared, claim, counter, Moment { wall, slot, begin })?;
        let (mut open, mut after) = (word, word.open_amount(slot) + u64::from(cost));
        if after > room.free {
            (open, after) = (word.begun(slot)?, cost.into());
        }
        if after > room.free || !counter.is_of(key) || !counter.replace(slot, word, open.plus(cost)) {
            return None;
        }
        shared.table.note_move(place);
        Some(Charge {
            limit: self.limit,
            cost,
            slot,
            remaining: room.rights - after,
            shadow_refused: false,
            reuse: word.reuse(),
            charged_at: wall,
            receipt: Some(ChargeReceipt { key, time: 0, spot: Spot::Entry(place) }),
        })
    }

    /// The slot that `wall` falls into, mostly the one that the last decision fell into, and its first instant.
    #[inline(always)]
    fn slot(&self, wall: WallTime) -> (u64, WallTime) {
        let latest = self.latest.load(Relaxed);
        let begin = self.even.begin(latest);
        if self.even.is_within(begin, wall) { (latest, begin) } else { self.turn_to(wall) }
    }

    #[cold]
    #[inline(never)]
    fn turn_to(&self, wall: WallTime) -> (u64, WallTime) {
        let slot = self.even.slot(wall.as_unix_millis());
        self.latest.store(slot, Relaxed);
        (slot, self.even.begin(slot))
    }

    /// What may be used of slots after a change of shares. Apart, so that a processor foresees the other case.
    #[cold]
    #[inline(never)]
    fn turned(&self) -> Room {
        self.rooms[1]
    }

    /// What may be used of a slot, if things stand plainly.
    #[inline(always)]
    fn room(&self, shared: &Shared, claim: &Claim, counter: &Counter, moment: Moment) -> Option<Room> {
        let Moment { wall, slot, begin } = moment;
        let gate = shared.gates.of(claim.key);
        let reach = gate.reach();
        let open = match self.counted {
            Counted::BySlot => reach.covers(begin) && gate.is_untouched(begin),
            Counted::InFlight => wall < gate.flow(),
            Counted::Otherwise => false,
        };
        if !open || !self.live.is_calm(begin) {
            return None;
        }
        let own = if slot < self.turn { self.rooms[0] } else { self.turned() };
        let Some((tag, amount)) = counter.published(slot) else {
            return (!reach.is_foreign()).then_some(own);
        };
        if reach.is_foreign() {
            // What is asked for in time stands beside it.
            let free = amount.min(counter.others(slot).wrapping_sub(1));
            return FOREIGN_TAGS.has(tag).then_some(Room { free, rights: amount });
        }
        let free = amount.saturating_sub(self.margin).max(own.free);
        self.tags.has(tag).then_some(Room { free, rights: amount.max(own.rights) })
    }
}

/// When a claim is made.
#[derive(Clone, Copy, Debug)]
struct Moment {
    wall: WallTime,
    slot: u64,
    begin: WallTime,
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
