//! What the counters of one number are held by: its windows and its way of counting, which a number keeps for ever (see
//! `portolan_config::LimitBinding`), and the most that a slot may admit. Never counts anything.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Algorithm, Limit, LimitId};
use portolan_limits::Windows;
use portolan_model::Rate;

use super::{
    Seen, Truth,
    room::{Asked, Room},
};
use crate::{
    bound::{self, Most},
    civil::{Moment, millis},
    slots::Slot,
};

/// Of one number.
pub struct Rules {
    pub id: LimitId,
    /// As the newest revision has it that was charged.
    pub limit: Arc<Limit>,
    pub windows: Windows,
    /// Whether some revision split it otherwise than another one did.
    pub was_resplit: bool,
    /// The most that a slot may admit, by quota.
    pub most: BTreeMap<u64, Most>,
    /// The slot that it is by true time, and when that begins and ends, in milliseconds of the scenario.
    present: (u64, i64, i64),
    /// What regions have room for, by quota.
    rooms: BTreeMap<u64, Option<Room>>,
    /// Of all keys, by place of the region.
    pub asked: Asked,
    regions: usize,
}

/// Where a verdict is counted.
pub struct Part {
    pub slot: u64,
    pub begins_ms: i64,
    pub quota: u64,
}

impl Rules {
    pub fn new(id: LimitId, limit: &Arc<Limit>, regions: usize) -> Self {
        let windows = Windows::of(&limit.algorithm);
        Self {
            id,
            limit: Arc::clone(limit),
            windows,
            was_resplit: false,
            most: BTreeMap::new(),
            present: (0, i64::MAX, i64::MIN),
            rooms: BTreeMap::new(),
            asked: Asked::default(),
            regions,
        }
    }

    /// A revision has it otherwise, under the same number.
    pub fn follow(&mut self, limit: &Arc<Limit>) {
        if !Arc::ptr_eq(&self.limit, limit) {
            self.rooms.clear();
            self.was_resplit |= self.limit.shares != limit.shares;
            self.limit = Arc::clone(limit);
            self.most.clear();
        }
    }

    /// The part of the run that a verdict belongs to: the slot it names, or a second of the scenario where slots mean
    /// nothing.
    pub fn part(&self, slot: u64, quota: u64, seen: Seen) -> Part {
        let second = u64::try_from(seen.at_ms() / 1000).unwrap_or_default();
        let in_second = |quota| Part { slot: second, begins_ms: seen.at_ms() / 1000 * 1000, quota };
        match &self.limit.algorithm {
            Algorithm::TokenBucket { rate, .. } => in_second(bound::dripped(Rate { count: quota, ..*rate })),
            Algorithm::Concurrency { .. } => in_second(quota),
            _ => Part { slot, begins_ms: seen.moment.begin(&self.windows, slot), quota },
        }
    }

    /// The part of the run that it is by true time, with its begin in milliseconds of the scenario.
    pub fn present(&mut self, seen: Seen) -> (u64, i64) {
        let at_ms = seen.at_ms();
        if !self.counts_in_slots() {
            return (u64::try_from(at_ms / 1000).unwrap_or_default(), at_ms / 1000 * 1000);
        }
        let (_, begins_ms, ends_ms) = self.present;
        if !(begins_ms..ends_ms).contains(&at_ms) {
            let slot = seen.moment.slot_at(&self.windows, at_ms);
            let [begins_ms, ends_ms] = [slot, slot + 1].map(|slot| seen.moment.begin(&self.windows, slot));
            self.present = (slot, begins_ms, ends_ms);
        }
        (self.present.0, self.present.1)
    }

    /// When something last kept regions from spending their shares as the document states them, in milliseconds of the
    /// scenario.
    pub fn last_unrest_ms(&self, truth: &Truth) -> Option<i64> {
        let last_ms = truth.trouble.last_unrest_ms().max(truth.fences.last_ms());
        last_ms.max(truth.splits.last_ms(&self.limit, last_ms))
    }

    /// What regions have room for of a key that counts so much.
    pub fn room(&mut self, quota: u64, truth: &Truth) -> Option<&Room> {
        let limit = &self.limit;
        let room = || Room::of(limit, quota, &truth.map, truth.nodes);
        self.rooms.entry(quota).or_insert_with(room).as_ref()
    }

    /// What a sliding window has to hold to its limit: the slot, and what is left of the one before by the clock of
    /// whoever was furthest when it admitted something, so that no region may count less. Regions round.
    pub fn estimate(&self, slot: &Slot, before: u64, moment: Moment) -> u64 {
        if !matches!(self.limit.algorithm, Algorithm::SlidingWindow { .. }) {
            return 0;
        }
        let left = moment.left_of_before(&self.windows, slot.slot, slot.read_ms);
        slot.spent() + (before * left / 1000).saturating_sub(self.regions as u64)
    }

    /// How long a part of the run lasts that verdicts are counted by.
    pub fn part_ms(&self) -> i64 {
        if self.counts_in_slots() { self.window_ms() } else { 1000 }
    }

    fn counts_in_slots(&self) -> bool {
        !matches!(self.limit.algorithm, Algorithm::TokenBucket { .. } | Algorithm::Concurrency { .. })
    }

    pub fn window_ms(&self) -> i64 {
        millis(self.limit.window())
    }

    /// Whether what was admitted in the slot before counts in part.
    pub fn slides(&self) -> bool {
        matches!(self.limit.algorithm, Algorithm::SlidingWindow { .. })
    }
}
