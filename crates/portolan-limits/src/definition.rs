//! What a limit means in one generation: its quota, window, policy and this region's share. Pure functions of the
//! definition, never of the moment, so that all regions cut the same quota alike.

use std::time::Duration;

use portolan_config::{LimitId, OnPartition};
use portolan_model::{Name, Rate, WallTime};

use crate::word::MAX_SPENT;

/// A limit as the accepted configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its number; changes with the window or the key, and is never given to another limit.
    pub id: LimitId,
    /// Grows with every change of the count; spend carries over.
    pub generation: u32,
    /// Its name, for clients and people.
    pub name: Name,
    /// The quota and the window, over all regions together.
    pub rate: Rate,
    /// What to do while a region is not heard.
    pub on_partition: OnPartition,
    /// Whether the answer names the slot that was charged.
    pub expose_slot: bool,
}

/// Windows this long have durable marks per key; shorter ones only lose their rights in the slots a crash may have
/// touched, which costs at most the lead of the horizon plus one window.
pub(crate) const MARKED_WINDOW: Duration = Duration::from_secs(10);

/// The part of a definition that the request path computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// `L`: the whole quota of one slot.
    pub quota: u64,
    /// This region's share of it.
    pub base: u64,
    /// Length of a slot in milliseconds, at least 1.
    pub window_ms: u64,
    /// What a key may spend in a slot without a durable mark; the share itself for windows without marks.
    pub allowance: u64,
    /// How far beyond the spend a durable mark is set.
    pub chunk: u64,
}

impl Terms {
    /// The terms for the region at `position` of `regions` regions in the order of the scope.
    pub fn new(rate: Rate, position: usize, regions: usize) -> Self {
        let quota = rate.count.min(MAX_SPENT);
        let base = base_share(quota, position, regions);
        let window_ms = u64::try_from(rate.per.as_millis()).unwrap_or(u64::MAX).max(1);
        let second = base.saturating_mul(1000) / window_ms;
        let allowance = (base / 10).max(1);
        Self { quota, base, window_ms, allowance, chunk: allowance.max(second) }
    }

    /// Whether keys of this limit keep durable marks.
    pub fn marked(&self) -> bool {
        u128::from(self.window_ms) >= MARKED_WINDOW.as_millis()
    }

    /// The slot that `wall` falls into.
    pub fn slot(&self, wall: WallTime) -> u64 {
        wall.as_unix_millis() / self.window_ms
    }

    /// First instant of a slot.
    pub fn begin(&self, slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot.saturating_mul(self.window_ms))
    }

    /// First instant after a slot.
    pub fn end(&self, slot: u64) -> WallTime {
        self.begin(slot.saturating_add(1))
    }
}

/// Splits `quota` equally, the remainder one by one to the first regions of the scope. Grows with `quota` for every
/// position, so that during a change from `a` to `b` the regions together hold at most `max(a, b)`.
pub(crate) fn base_share(quota: u64, position: usize, regions: usize) -> u64 {
    let regions = (regions as u64).max(1);
    quota / regions + u64::from((position as u64) < quota % regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_the_quota_and_grow_with_it() {
        for regions in 1..8usize {
            for quota in 0..50u64 {
                let shares = |quota| (0..regions).map(move |at| base_share(quota, at, regions));
                assert_eq!(shares(quota).sum::<u64>(), quota);
                assert!(shares(quota).zip(shares(quota + 1)).all(|(now, more)| now <= more));
            }
        }
    }

    #[test]
    fn a_slot_begins_where_the_one_before_ends() {
        let terms = Terms::new("600/min".parse().expect("a rate"), 0, 3);
        assert_eq!((terms.base, terms.allowance, terms.chunk), (200, 20, 20));
        let slot = terms.slot(WallTime::from_unix_millis(119_999));
        assert_eq!((slot, terms.begin(slot).as_unix_millis(), terms.end(slot).as_unix_millis()), (1, 60_000, 120_000));
    }
}
