//! Leases: which regions hold shares of limits that say `reclaim`, and of which slots (rights ledger, rule 9.6).
//!
//! A lease is of slots, not of time. A region spends, lends and grants nothing of a slot that begins at or after the end
//! of its lease as it knows it; the log holds the newest end, so what a region knows is never later. Only once the log
//! says that a lease has lapsed, which ends its renewal, do others get the share, and only of slots from that end on. So
//! no clock takes part in the bound: a region that is cut off, stopped or slow holds what nobody else has.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{Name, NodeName, RegionId, WallTime};
use serde::{Deserialize, Serialize};

use super::{Fence, absent::Absent};
use crate::{Algorithm, Limit, Roster, Snapshot};

/// The leases of all limits that reclaim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    limits: BTreeMap<Name, Leased>,
    /// When they were renewed last.
    renewed: WallTime,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Leased {
    /// The change by which the limit began to reclaim; 0 for one that always did. A region heeds its lease once all its
    /// nodes have seen that change.
    number: u64,
    regions: BTreeMap<RegionId, Lease>,
}

/// One region's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    /// No slot of the region begins at this instant or after.
    until: WallTime,
    /// Others have its share of the slots from then on.
    lapsed: bool,
    /// Every node of the region has known of it since some moment; it ends after what they may have touched before.
    heeded: bool,
}

/// What decides whether a lease can lapse.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heeding<'a> {
    pub rosters: &'a BTreeMap<RegionId, Roster>,
    /// Nodes off the rosters that may spend yet.
    pub absent: &'a Absent,
    /// Up to which change each node has them all.
    pub seen: &'a BTreeMap<NodeName, u64>,
    pub fences: &'a BTreeMap<RegionId, Fence>,
}

impl Leases {
    /// Where a region's slots of a limit end: none of them begins at this instant or after. `None` for a limit that does
    /// not reclaim.
    pub fn until(&self, limit: &Name, region: &RegionId) -> Option<WallTime> {
        self.limits.get(limit)?.regions.get(region).map(|lease| lease.until)
    }

    /// Every limit with the regions whose shares of it others have, each with the instant from which.
    pub fn lapsed(&self) -> impl Iterator<Item = (&Name, &RegionId, WallTime)> {
        self.limits.iter().flat_map(|(limit, leased)| {
            let lapsed = leased.regions.iter().filter(|(_, lease)| lease.lapsed);
            lapsed.map(move |(region, lease)| (limit, region, lease.until))
        })
    }

    /// Whether what a node has seen up to `seen` lacks a limit that began to reclaim.
    pub(super) fn is_news(&self, seen: u64) -> bool {
        self.limits.values().any(|leased| leased.number > seen)
    }

    /// Follows a new document. `counted` says which limits go on with the counters they had; `number` is given to those of
    /// them that begin to reclaim. Returns whether there are any.
    pub(super) fn follow(
        &mut self,
        snapshot: &Snapshot,
        regions: &[RegionId],
        counted: impl Fn(&Name) -> bool,
        number: u64,
        at: WallTime,
    ) -> bool {
        self.limits.retain(|name, _| snapshot.limits.get(name).is_some_and(|limit| limit.reclaim.is_some()));
        let mut begins = false;
        for (name, limit) in &snapshot.limits {
            let Some(after) = limit.reclaim.filter(|_| !self.limits.contains_key(name)) else { continue };
            let number = if counted(name) { number } else { 0 };
            let lease = Lease { until: at + after, lapsed: false, heeded: number == 0 };
            begins |= number > 0;
            let regions = regions.iter().map(|region| (region.clone(), lease)).collect();
            self.limits.insert(name.clone(), Leased { number, regions });
        }
        begins
    }

    /// Renews the leases of regions whose nodes all know by now that a limit reclaims: until then they went by no lease, and
    /// touched slots that begin up to two seconds later, whenever the lease ended.
    pub(super) fn bind(&mut self, snapshot: &Snapshot, heeding: Heeding<'_>, at: WallTime) {
        for (name, leased) in &mut self.limits {
            let Some(after) = snapshot.limits.get(name).and_then(|limit| limit.reclaim) else { continue };
            for (region, lease) in leased.regions.iter_mut().filter(|(_, lease)| !lease.heeded) {
                if heeding.heeds(region, leased.number) {
                    (lease.heeded, lease.until) = (true, lease.until.max(at + after));
                }
            }
        }
    }

    /// Renews the leases of the regions that are `present`, and lets those lapse that are over. Returns whether any lapsed
    /// or came back.
    pub(super) fn renew(
        &mut self,
        snapshot: &Snapshot,
        present: &BTreeSet<RegionId>,
        heeding: Heeding<'_>,
        at: WallTime,
    ) -> bool {
        self.renewed = at;
        let mut changed = false;
        for (name, leased) in &mut self.limits {
            let Some(after) = snapshot.limits.get(name).and_then(|limit| limit.reclaim) else { continue };
            for (region, lease) in &mut leased.regions {
                let lapsed = if heeding.renews(region, present) {
                    lease.until = lease.until.max(at + after);
                    false
                } else {
                    lease.lapsed || (at >= lease.until + GRACE && lease.heeded && heeding.heeds(region, leased.number))
                };
                changed |= lapsed != lease.lapsed;
                lease.lapsed = lapsed;
            }
        }
        changed
    }

    /// Whether [`Leases::renew`] is due at `at`.
    pub(super) fn is_due(
        &self,
        snapshot: &Snapshot,
        present: &BTreeSet<RegionId>,
        heeding: Heeding<'_>,
        at: WallTime,
    ) -> bool {
        let shortest = self.limits.keys().filter_map(|name| snapshot.limits.get(name)?.reclaim).min();
        let Some(shortest) = shortest else { return false };
        let changes = |leased: &Leased| {
            leased.regions.iter().any(|(region, lease)| match heeding.renews(region, present) {
                true => lease.lapsed,
                false => {
                    let over = lease.heeded && at >= lease.until + GRACE;
                    !lease.lapsed && over && heeding.heeds(region, leased.number)
                }
            })
        };
        at >= self.renewed + (shortest / 3).min(LONGEST_PERIOD) || self.limits.values().any(changes)
    }

    /// Regions that have no share of a limit from some slot on, each with where its slots end: those whose lease lapsed,
    /// and those that an operator fenced, whose lease is not renewed.
    pub(super) fn gone<'a>(
        &'a self,
        limit: &Name,
        heeding: Heeding<'a>,
    ) -> impl Iterator<Item = (&'a RegionId, WallTime)> + 'a {
        self.limits.get(limit).into_iter().flat_map(move |leased| {
            let gone = move |(region, lease): &(&RegionId, &Lease)| {
                let fenced = heeding.fences.contains_key(*region) && lease.heeded;
                lease.lapsed || (fenced && heeding.heeds(region, leased.number))
            };
            leased.regions.iter().filter(gone).map(|(region, lease)| (region, lease.until))
        })
    }

    /// Whether a region's lease of a limit has lapsed.
    pub(super) fn has_lapsed(&self, limit: &Name, region: &RegionId) -> bool {
        let lease = self.limits.get(limit).and_then(|leased| leased.regions.get(region));
        lease.is_some_and(|lease| lease.lapsed)
    }
}

impl Heeding<'_> {
    fn renews(&self, region: &RegionId, present: &BTreeSet<RegionId>) -> bool {
        present.contains(region) && !self.fences.contains_key(region)
    }

    /// Whether every node of a region knows that a limit reclaims.
    fn heeds(&self, region: &RegionId, number: u64) -> bool {
        let nodes = self.rosters.get(region).map_or(&[][..], |roster| &roster.nodes);
        nodes.iter().chain(self.absent.of(region)).all(|node| self.seen.get(node).copied().unwrap_or(0) >= number)
    }
}

/// The first slots of a limit that others have of a region whose slots end at `until`. What it spent in its last sliding
/// window counts in the next.
pub(super) fn taken_from(limit: &Limit, until: WallTime) -> WallTime {
    match limit.algorithm {
        Algorithm::SlidingWindow { window, .. } => until + window,
        _ => until,
    }
}

/// How long after its end a lease may still be renewed. The bound needs none of it: it spares a region whose renewal is on
/// its way.
const GRACE: Duration = Duration::from_secs(1);

/// Leases are renewed at a third of their length, and as often as this at least.
const LONGEST_PERIOD: Duration = Duration::from_secs(10);
