//! Counts verdicts outside the ledger, by the slot that the gateway charged or refused in. A ledger that counts itself
//! proves nothing: two owners of one row would each see their own maximum.

use std::{collections::BTreeMap, time::Duration};

/// What was asked of one slot and what was allowed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub asked: u64,
    pub allowed: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Oracle {
    slots: BTreeMap<u64, Count>,
    /// Requests that waited before their answer, and for how long together.
    pub waited: u64,
    pub waited_for: Duration,
    pub asked: u64,
}

/// Errors over the measured slots, in parts of the quota.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    pub slots: u64,
    pub over_mean: f64,
    pub over_most: f64,
    /// Units above the quota in the worst slot.
    pub over_units: u64,
    pub refused_wrongly: f64,
}

impl Oracle {
    pub fn allow(&mut self, slot: u64) {
        let count = self.slots.entry(slot).or_default();
        count.asked += 1;
        count.allowed += 1;
        self.asked += 1;
    }

    pub fn refuse(&mut self, slot: u64) {
        self.slots.entry(slot).or_default().asked += 1;
        self.asked += 1;
    }

    pub fn wait(&mut self, time: Duration) {
        self.waited += 1;
        self.waited_for += time;
    }

    /// The most that was allowed in any slot, measured or not.
    pub fn most_allowed(&self) -> u64 {
        self.slots.values().map(|count| count.allowed).max().unwrap_or(0)
    }

    /// Errors over the slots of `measured`.
    pub fn errors(&self, quota: u64, measured: std::ops::Range<u64>) -> Errors {
        let mut errors = Errors::default();
        for count in measured.map(|slot| self.slots.get(&slot).copied().unwrap_or_default()) {
            let over = count.allowed.saturating_sub(quota);
            let wrongly = count.asked.min(quota).saturating_sub(count.allowed);
            errors.slots += 1;
            errors.over_mean += over as f64 / quota as f64;
            errors.over_units = errors.over_units.max(over);
            errors.refused_wrongly += wrongly as f64 / quota as f64;
        }
        errors.over_most = errors.over_units as f64 / quota as f64;
        errors.over_mean /= errors.slots.max(1) as f64;
        errors.refused_wrongly /= errors.slots.max(1) as f64;
        errors
    }
}
