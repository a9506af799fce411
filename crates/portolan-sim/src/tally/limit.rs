//! One limit over a run, all keys together: what figures come of closed parts. Never says whether a verdict was right, and
//! never by what it is held: under one name a document may change everything.

use std::sync::Arc;

use portolan_config::{Limit, LimitExpectation};
use portolan_model::Name;
use tokio::time::Duration;

use crate::{
    civil::millis,
    outcome::{LimitFigures, Refusals, RegionUse},
    slots::{Slot, Sums},
};

/// One limit, all keys together.
pub struct LimitTally {
    /// Its name.
    pub name: Name,
    /// As the newest revision has it that was charged.
    pub limit: Arc<Limit>,
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

    /// Counts a slot that is over, of those that last so long.
    pub fn close(&mut self, slot: &Slot, lasts: i64, expected: &[LimitExpectation]) {
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

    pub fn figures(&self, regions: &[String]) -> LimitFigures {
        let refused = self.refused();
        let admitted = self.admitted();
        let means = |total: u64, count: u64| total.checked_div(count).unwrap_or_default();
        LimitFigures {
            quota: self.sums.quota,
            bound: self.sums.bound,
            most_admitted: self.sums.most_admitted,
            slots: self.sums.slots,
            window_ms: millis(self.limit.window()).unsigned_abs(),
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
