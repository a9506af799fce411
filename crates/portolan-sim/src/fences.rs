//! Regions whose shares operators have given to the others. Such a region, if it lives and has not heard of it, spends what
//! it had: the operator has vouched that it does not, so the limits are held without it. Never asks a region that has
//! heard of its fence for less than any other, whatever else it has not heard.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Fence, Intent};
use portolan_model::{RegionId, WallTime};

use crate::{host::Host, world::World};

/// What clocks and looks may be off, in milliseconds.
const TOLERANCE_MS: i64 = 500;

/// Regions that were fenced, by place.
#[derive(Debug, Default)]
pub struct Fences(BTreeMap<usize, Fenced>);

#[derive(Debug)]
struct Fenced {
    /// When the newest fence was ordered, and an index of the log by which it is there.
    ordered: (WallTime, u64),
    /// Whether that is over.
    lifted: bool,
    /// When it was there last, in milliseconds of the scenario.
    in_force_ms: i64,
    /// When some node of the region had not heard of it last, in milliseconds of the scenario.
    unaware_ms: Option<i64>,
}

impl Fences {
    /// Takes in which regions are fenced, and since when, as the log has it up to `index`.
    fn order(&mut self, fences: &BTreeMap<usize, WallTime>, index: u64) {
        for (&place, &at) in fences {
            let new = Fenced { ordered: (at, index), lifted: false, in_force_ms: 0, unaware_ms: None };
            let fenced = self.0.entry(place).or_insert(new);
            fenced.lifted = false;
            if fenced.ordered.0 != at {
                fenced.ordered = (at, index);
            }
        }
        self.0.iter_mut().filter(|(place, _)| !fences.contains_key(place)).for_each(|(_, fenced)| fenced.lifted = true);
    }

    /// Takes in how much of the log a node of a region has applied; `None` while it is down: it comes back with what it
    /// knew, which may be less than it did. Whoever does not know that a fence is lifted spends too little.
    fn look(&mut self, place: usize, applied: Option<u64>, at_ms: i64) {
        if let Some(fenced) = self.0.get_mut(&place).filter(|fenced| !fenced.lifted) {
            fenced.in_force_ms = at_ms;
            if applied < Some(fenced.ordered.1) {
                fenced.unaware_ms = Some(at_ms);
            }
        }
    }

    /// Whether no region was ever fenced: each has the share that documents state.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When a region was fenced last, in milliseconds of the scenario.
    pub fn last_ms(&self) -> Option<i64> {
        self.0.values().map(|fenced| fenced.in_force_ms).max()
    }

    /// Whether what the region at `place` spends of a slot that began at `begins_ms` of the scenario is beyond the limit.
    pub fn excuse(&self, place: usize, begins_ms: i64) -> bool {
        let unaware = self.0.get(&place).and_then(|fenced| fenced.unaware_ms);
        unaware.is_some_and(|unaware| begins_ms <= unaware + TOLERANCE_MS)
    }
}

/// How much of the log a node has applied.
fn applied(host: &Host) -> Option<u64> {
    host.process.as_ref()?.raft.status().last_applied
}

impl World<'_> {
    /// Looks which regions are fenced, and whether their nodes have heard of it.
    pub fn note_fences(&mut self) {
        let at_ms = self.at_ms();
        let Some((intent, index)) = self.newest_intent() else { return };
        let placed = |(region, fence): (&RegionId, &Fence)| Some((self.place_of(region)?, fence.at));
        let fences = intent.limits.fences().iter().filter_map(placed).collect();
        self.tally.truth.fences.order(&fences, index);
        for host in &self.hosts {
            self.tally.truth.fences.look(host.place, applied(host), at_ms);
        }
    }

    /// What the cluster has agreed on, as the node has it that has applied most of the log, and how much that is.
    pub fn newest_intent(&self) -> Option<(Arc<Intent>, u64)> {
        let newest = self.hosts.iter().max_by_key(|host| applied(host))?;
        let process = newest.process.as_ref()?;
        Some((Arc::clone(&process.node.view().intent), applied(newest)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_region_is_excused_until_the_slot_in_which_it_hears_of_its_fence_and_by_nothing_else() {
        let mut fences = Fences::default();
        // When the fence was ordered and an index at which it is there; what a node of the region has applied.
        let mut check = |at_ms, ordered: Option<(u64, u64)>, applied, expected: bool| {
            let fence = |(at, index)| (BTreeMap::from([(0, WallTime::from_unix_millis(at))]), index);
            let (ordered, index) = ordered.map_or((BTreeMap::new(), 0), fence);
            fences.order(&ordered, index);
            fences.look(0, applied, at_ms);
            fences.look(1, Some(1), at_ms);
            assert_eq!((fences.excuse(0, at_ms), fences.excuse(1, at_ms)), (expected, false), "at {at_ms}");
        };
        check(1_000, None, Some(3), false);
        check(2_000, Some((1, 10)), Some(9), true);
        // In this slot it hears, the next is its own again. That it lacks what came later does not matter.
        check(2_500, Some((1, 11)), Some(10), true);
        check(2_501, Some((1, 12)), Some(11), false);
        check(20_000, Some((1, 40)), Some(39), false);
        // It may come back with less than it knew.
        check(30_000, Some((1, 41)), None, true);
        check(31_000, Some((1, 41)), Some(9), true);
        check(32_000, Some((1, 41)), Some(40), false);
        // Its fence is gone.
        check(40_000, None, Some(41), false);
        check(45_000, None, None, false);
        // Another one is not that which it knows.
        check(50_000, Some((2, 60)), Some(59), true);
        check(51_000, Some((2, 61)), Some(60), false);
    }
}
