//! One limit over a run, all keys together: to which part of the run a verdict belongs, and what figures come of closed
//! parts. Never says whether a verdict was right.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Algorithm, Limit, LimitExpectation};
use portolan_limits::Windows;
use portolan_model::{Name, Rate};
use tokio::time::Duration;

use super::Seen;
use crate::{
    bound::{self, Most},
    civil::{Moment, millis},
    outcome::{LimitFigures, Refusals, RegionUse},
    slots::{Slot, Sums},
};

/// One limit, all keys together.
pub struct LimitTally {
    /// Its name.
    pub name: Name,
    /// As the newest revision has it that was charged.
    pub limit: Arc<Limit>,
    pub(super) windows: Windows,
    /// Whether some revision split it otherwise than another one did.
    pub(super) was_resplit: bool,
    /// The most that a slot of it may admit, by quota.
    pub(super) most: BTreeMap<u64, Most>,
    /// How long the scenario lasts.
    pub(super) length_ms: i64,
    /// What each region admitted and refused, by place.
    pub regions: Vec<RegionUse>,
    /// Requests decided.
    pub(super) decided: u64,
    /// Requests that waited, and how long together.
    pub(super) waited: u64,
    pub(super) waits: Duration,
    /// Over all closed slots, and over those that each expectation asks for.
    pub(super) sums: Sums,
    pub(super) expected: Vec<(usize, Sums)>,
    pub(super) counters: u32,
}

impl LimitTally {
    /// Units refused, over all regions.
    pub fn refused(&self) -> Refusals {
        let add = |sum: Refusals, region: &RegionUse| Refusals {
            limited: sum.limited + region.refused.limited,
            degraded: sum.degraded + region.refused.degraded,
            undecided: sum.undecided + region.refused.undecided,
        };
        self.regions.iter().fold(Refusals::default(), add)
    }

    /// Units admitted, over all regions.
    pub fn admitted(&self) -> u64 {
        self.regions.iter().map(|region| region.admitted).sum()
    }

    /// Requests that waited, and all that were decided.
    pub fn waits(&self) -> (u64, u64) {
        (self.waited, self.decided)
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
        let rounding = self.regions.len() as u64;
        slot.spent() + (before * left / 1000).saturating_sub(rounding)
    }

    pub fn close(&mut self, slot: &Slot, expected: &[LimitExpectation]) {
        let lasts = self.part_ms();
        let whole = slot.lies_within(self.length_ms, lasts);
        self.sums.add(slot, whole);
        for (at, sums) in &mut self.expected {
            let LimitExpectation { from, until, .. } = &expected[*at];
            let begun = from.is_zero() || slot.begins_ms >= millis(*from);
            let until = until.map_or(i64::MAX, millis);
            if begun && slot.begins_ms.saturating_add(lasts) <= until {
                sums.add(slot, whole);
            }
        }
    }

    /// How long a part of the run lasts that verdicts are counted by.
    fn part_ms(&self) -> i64 {
        match self.limit.algorithm {
            Algorithm::TokenBucket { .. } | Algorithm::Concurrency { .. } => 1000,
            _ => self.window_ms(),
        }
    }

    pub fn window_ms(&self) -> i64 {
        millis(self.limit.window())
    }

    pub fn figures(&self, regions: &[String]) -> LimitFigures {
        let refused = self.refused();
        let admitted = self.admitted();
        let means = |total: u64, count: u64| total.checked_div(count).unwrap_or_default();
        LimitFigures {
            quota: self.sums.quota,
            bound: self.sums.bound,
            most_admitted: self.sums.most_admitted,
            slots: self.sums.slots,
            window_ms: self.window_ms().unsigned_abs(),
            demanded: admitted + refused.limited + refused.degraded + refused.undecided,
            admitted,
            refused,
            over_mean_ppm: self.sums.over_mean_ppm(),
            over_most_ppm: self.sums.over_most_ppm,
            false_rejects_ppm: self.sums.false_rejects_ppm(),
            false_rejects_most_ppm: self.sums.false_rejects_most_ppm,
            whole_slots: self.sums.whole_slots,
            waited: self.waited,
            wait_mean_us: means(u64::try_from(self.waits.as_micros()).unwrap_or(u64::MAX), self.waited),
            by_region: regions.iter().cloned().zip(self.regions.iter().copied()).collect(),
        }
    }
}

/// Where a verdict is counted.
pub struct Part {
    pub slot: u64,
    pub begins_ms: i64,
    pub quota: u64,
}
