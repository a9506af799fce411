//! Leases of limits that reclaim, as far as it takes a node's word: the leader proposes to renew those of the regions that
//! it hears and that hear it, and every node tells its limits where its own region's end. What a lease means, and when
//! one lapses, is the intent's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_config::{Leases, LimitId};
use portolan_model::{Name, Now, RegionId, Timestamp, WallTime};

use super::{Node, PROPOSE_AGAIN};
use crate::{Event, Sight, facts::Known};

/// How lately a region must have been heard for its leases to be renewed: two heartbeats between nodes that are far, and
/// some.
const HEARD_LATELY: Duration = Duration::from_secs(3);

impl Node {
    /// As the leader: proposes renewals that are due.
    pub(super) fn tend_leases(&mut self, now: Now) {
        let rests = self.renewed.is_some_and(|at| now.mono.since(at) < PROPOSE_AGAIN);
        if rests || !self.guard.raft().is_some_and(|raft| raft.is_leader) {
            return;
        }
        if let Some(command) = self.intent.renewal(&self.present(now.mono), now.wall) {
            self.renewed = Some(now.mono);
            self.propose(command);
        }
    }

    /// The own region, and those that are heard and say that they hear it. What cannot be told yet counts for a region:
    /// this node has just started.
    fn present(&self, now: Timestamp) -> BTreeSet<RegionId> {
        let regions = self.config.regions.ids();
        let own = regions.iter().position(|region| *region == self.config.region);
        let hears_us = |known: &Known| {
            let sight = own.filter(|_| known.facts.region_list == self.region_list);
            !sight
                .and_then(|own| known.facts.sights.get(own))
                .is_some_and(|sight| matches!(sight, Sight::Silent { .. }))
        };
        let present = |region: &&RegionId| {
            let heard = match self.presence.sight(region, now) {
                Sight::Heard { age } => age <= HEARD_LATELY,
                Sight::Unknown => true,
                Sight::Silent { .. } => false,
            };
            let mut words = self.known.values().filter(|known| known.is_fresh(now) && known.facts.region == **region);
            let deaf = words.clone().next().is_some() && !words.any(hears_us);
            **region == self.config.region || (heard && !deaf)
        };
        regions.iter().filter(present).cloned().collect()
    }

    /// Tells the limits where the leases of this region end, and others who lost theirs.
    pub(super) fn follow_leases(&mut self, before: &Leases, now: Now) {
        let lapsed: BTreeSet<(&Name, &RegionId)> = before.lapsed().map(|(limit, region, _)| (limit, region)).collect();
        let newly = self.intent.leases.lapsed().filter(|&(limit, region, _)| !lapsed.contains(&(limit, region)));
        let events: Vec<Event> = newly
            .map(|(limit, region, from)| Event::Reclaim { limit: limit.clone(), region: region.clone(), from })
            .collect();
        events.into_iter().for_each(|event| self.emit(event));
        self.limits.handle_leases(&self.own_leases(), now);
    }

    fn own_leases(&self) -> BTreeMap<LimitId, WallTime> {
        let Self { intent, config, .. } = self;
        let end = |budget: portolan_config::Budgeted<'_>| {
            Some((budget.binding.id, intent.leases.until(&budget.limit.name, &config.region)?))
        };
        intent.limits.budgets(&intent.snapshot).filter_map(end).collect()
    }
}
