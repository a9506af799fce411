//! Regions whose shares operators have given to the others. Such a region, if it lives and has not heard of it, spends what
//! it had: the operator has vouched that it does not, so the limits are held without it. Never asks a fenced region that
//! has heard of its fence for less than any other.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::RegionId;

use crate::world::World;

/// What clocks and looks may be off, in milliseconds.
const TOLERANCE_MS: i64 = 500;

/// Fenced regions by place.
#[derive(Debug, Default)]
pub struct Fences(BTreeMap<usize, Fenced>);

#[derive(Debug, Default)]
struct Fenced {
    /// When it was last behind the log, in milliseconds of the scenario.
    behind_ms: Option<i64>,
}

impl Fences {
    /// Takes in which regions are fenced by the newest state of the cluster, and which of all regions are behind it.
    fn look(&mut self, fenced: &BTreeSet<usize>, behind: &BTreeSet<usize>, at_ms: i64) {
        for place in fenced {
            self.0.entry(*place).or_default();
        }
        for (place, fence) in &mut self.0 {
            if behind.contains(place) {
                fence.behind_ms = Some(at_ms);
            }
        }
        // What a region spent before it heard that its fence is gone belongs to slots that may still be open.
        let spends = |fence: &Fenced| fence.behind_ms.is_some();
        self.0.retain(|place, fence| fenced.contains(place) || behind.contains(place) || spends(fence));
    }

    /// Whether what the region at `place` spends of a slot that began at `begins_ms` of the scenario is beyond the limit.
    pub fn excuse(&self, place: usize, begins_ms: i64) -> bool {
        let behind = self.0.get(&place).and_then(|fence| fence.behind_ms);
        behind.is_some_and(|behind| begins_ms <= behind + TOLERANCE_MS)
    }
}

impl World<'_> {
    /// Looks which regions are fenced, and whether each has heard of it.
    pub fn note_fences(&mut self) {
        let applied = |host: usize| self.hosts[host].process.as_ref().map(|process| process.raft.status().last_applied);
        let Some(newest) =
            (0..self.hosts.len()).filter(|host| applied(*host).is_some()).max_by_key(|host| applied(*host))
        else {
            return;
        };
        let Some(process) = &self.hosts[newest].process else { return };
        let intent = process.node.view().intent.clone();
        let place_of = |region: &RegionId| self.place_of(region);
        let fenced: BTreeSet<usize> = intent.limits.fences().keys().filter_map(place_of).collect();
        if fenced.is_empty() && self.tally.fences.0.is_empty() {
            return;
        }
        let places = |is: &dyn Fn(&usize) -> bool| -> BTreeSet<usize> {
            (0..self.hosts.len()).filter(is).map(|host| self.hosts[host].place).collect()
        };
        let mut behind = places(&|host| applied(*host).is_some_and(|index| Some(index) < applied(newest)));
        // A region that is down comes back with what it knew before, and spends at once.
        let up = places(&|host| applied(*host).is_some());
        behind.extend(fenced.difference(&up));
        let at_ms = i64::try_from(self.since_zero().as_nanos() / 1_000_000).unwrap_or(i64::MAX);
        self.tally.fences.look(&fenced, &behind, at_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fenced_region_is_excused_until_the_slot_in_which_it_hears_of_its_fence() {
        let mut fences = Fences::default();
        let (none, first) = (BTreeSet::new(), BTreeSet::from([0]));
        fences.look(&none, &first, 1000);
        assert!(!fences.excuse(0, 1000), "a region that is behind is not fenced");
        fences.look(&first, &first, 2000);
        fences.look(&first, &none, 5000);
        assert_eq!([1000, 2500, 2501].map(|begins_ms| fences.excuse(0, begins_ms)), [true, true, false]);
        assert!(!fences.excuse(1, 2000));
        fences.look(&none, &first, 7000);
        fences.look(&none, &none, 8000);
        assert_eq!([7000, 8000].map(|begins_ms| fences.excuse(0, begins_ms)), [true, false]);
    }
}
