//! What the counters of one number are held by: its windows and its way of counting, which a number keeps for ever (see
//! `portolan_config::LimitBinding`), and the most that a slot may admit. Never counts anything.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Algorithm, Limit, LimitId};
use portolan_limits::Windows;
use portolan_model::Rate;

use super::Seen;
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
    regions: u64,
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
        let (limit, most) = (Arc::clone(limit), BTreeMap::new());
        Self { id, limit, windows, was_resplit: false, most, regions: regions as u64 }
    }

    /// A revision has it otherwise, under the same number.
    pub fn follow(&mut self, limit: &Arc<Limit>) {
        if !Arc::ptr_eq(&self.limit, limit) {
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

    /// What a sliding window has to hold to its limit: the slot, and what is left of the one before by the clock of
    /// whoever was furthest when it admitted something, so that no region may count less. Regions round.
    pub fn estimate(&self, slot: &Slot, before: u64, moment: Moment) -> u64 {
        if !matches!(self.limit.algorithm, Algorithm::SlidingWindow { .. }) {
            return 0;
        }
        let left = moment.left_of_before(&self.windows, slot.slot, slot.read_ms);
        slot.spent() + (before * left / 1000).saturating_sub(self.regions)
    }

    /// How long a part of the run lasts that verdicts are counted by.
    pub fn part_ms(&self) -> i64 {
        match self.limit.algorithm {
            Algorithm::TokenBucket { .. } | Algorithm::Concurrency { .. } => 1000,
            _ => self.window_ms(),
        }
    }

    pub fn window_ms(&self) -> i64 {
        millis(self.limit.window())
    }

    /// Whether what was admitted in the slot before counts in part.
    pub fn slides(&self) -> bool {
        matches!(self.limit.algorithm, Algorithm::SlidingWindow { .. })
    }
}
