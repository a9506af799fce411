//! What the cluster has agreed on about its limits: their numbers, the split of their quotas between regions, and which
//! regions are fenced. Part of the replicated state: changed by commands alone, with the times that these carry.

mod absent;
mod binding;
mod budget;
mod demand;
mod lease;
mod orders;
mod split;

use std::collections::BTreeMap;

use portolan_model::{Name, NodeName, RegionId, WallTime};
use serde::{Deserialize, Serialize};

use self::{absent::Absent, binding::Numbers, lease::Heeding, split::Split};
pub use self::{
    binding::{LimitBinding, LimitId},
    budget::{Budgeted, Consumers},
    lease::Leases,
};
use crate::{Algorithm, Roster, SharePlan, Snapshot};

/// The limits of a cluster as its regions have agreed on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitRegister {
    limits: BTreeMap<Name, Registered>,
    next: LimitId,
    fences: BTreeMap<RegionId, Fence>,
    /// The number of the newest change of a split; grows with every one.
    changes: u64,
    /// Up to which change each node has them all.
    seen: BTreeMap<NodeName, u64>,
    /// Nodes off the rosters that may spend yet.
    absent: Absent,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Registered {
    numbers: Numbers,
    split: Split,
}

/// A region whose shares others have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Why.
    pub reason: String,
    /// Who ordered it.
    pub author: String,
    /// When it was ordered.
    pub at: WallTime,
}

/// A change of splits that is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingShares<'a> {
    /// The limit.
    pub limit: &'a Name,
    /// The newest change it belongs to.
    pub number: u64,
    /// Nodes that have not acknowledged it; the change waits for them.
    pub missing: Vec<&'a NodeName>,
}

impl LimitRegister {
    /// Every budget of `snapshot`, which must be the one in force: each limit's own, then its plans and overrides.
    pub fn budgets<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = Budgeted<'a>> {
        let of = |limit: &'a std::sync::Arc<crate::Limit>| {
            let registered = self.limits.get(&limit.name)?;
            Some(budget::of_limit(limit, &registered.numbers, registered.split.plan()))
        };
        snapshot.limits.values().filter_map(of).flatten()
    }

    /// The number of a limit's own budget.
    pub fn own(&self, limit: &Name) -> Option<LimitBinding> {
        self.limits.get(limit).map(|registered| registered.numbers.own)
    }

    /// The number of a plan's budget.
    pub fn plan(&self, limit: &Name, plan: &str) -> Option<LimitBinding> {
        self.limits.get(limit)?.numbers.plans.get(plan).copied()
    }

    /// The number of a consumer's own budget.
    pub fn consumer(&self, limit: &Name, consumer: &str) -> Option<LimitBinding> {
        self.limits.get(limit)?.numbers.overrides.get(consumer).copied()
    }

    /// How a limit is split between regions, in the order of the region map.
    pub fn shares(&self, limit: &Name) -> Option<&SharePlan> {
        self.limits.get(limit).map(|registered| registered.split.plan())
    }

    /// Regions whose shares others have.
    pub fn fences(&self) -> &BTreeMap<RegionId, Fence> {
        &self.fences
    }

    /// Changes that wait for somebody, by limit.
    pub fn pending<'a>(
        &'a self,
        leases: &'a Leases,
        rosters: &'a BTreeMap<RegionId, Roster>,
    ) -> impl Iterator<Item = PendingShares<'a>> + 'a {
        self.limits.iter().filter_map(move |(limit, registered)| {
            let number = registered.split.pending()?;
            let unseen = |node: &&NodeName| self.seen.get(*node).is_none_or(|seen| *seen < number);
            let missing = self.holders(limit, leases, rosters).filter(unseen).collect();
            Some(PendingShares { limit, number, missing })
        })
    }

    /// Nodes that share a limit, off the rosters too, and are of no region that is fenced or without its lease.
    fn holders<'a>(
        &'a self,
        limit: &'a Name,
        leases: &'a Leases,
        rosters: &'a BTreeMap<RegionId, Roster>,
    ) -> impl Iterator<Item = &'a NodeName> + 'a {
        let holds = |region| !self.fences.contains_key(region) && !leases.has_lapsed(limit, region);
        let nodes = |(region, roster): (&RegionId, &'a Roster)| roster.nodes.iter().chain(self.absent.of(region));
        rosters.iter().filter(move |(region, _)| holds(region)).flat_map(nodes)
    }

    fn heeding<'a>(&'a self, rosters: &'a BTreeMap<RegionId, Roster>) -> Heeding<'a> {
        Heeding { rosters, absent: &self.absent, seen: &self.seen, fences: &self.fences }
    }

    /// A node came without its past: what it had acknowledged, it may have forgotten.
    pub(crate) fn forget(&mut self, node: &NodeName) {
        self.seen.remove(node);
    }

    /// Follows a new roster of any region. What is in flight of a key is known to the key's owner alone, so whoever said
    /// that it fits a split must say so again of the keys that are its own now.
    pub(crate) fn ask_anew(&mut self, snapshot: &Snapshot) {
        let number = self.changes + 1;
        let counts = |limit: &Name| {
            snapshot.limits.get(limit).is_some_and(|limit| matches!(limit.algorithm, Algorithm::Concurrency { .. }))
        };
        for (_, registered) in self.limits.iter_mut().filter(|(limit, _)| counts(limit)) {
            registered.split.ask_anew(number);
            if registered.split.pending() == Some(number) {
                self.changes = number;
            }
        }
    }

    /// Follows a new roster that came after `before`.
    pub(crate) fn follow_roster(&mut self, region: &RegionId, before: &[NodeName], roster: &Roster) {
        self.absent.follow(region, before, roster);
    }

    /// For a Raft snapshot: without the names that the document has.
    pub(crate) fn save(&self) -> SavedRegister {
        let save = |(name, it): (&Name, &Registered)| (name.clone(), it.numbers.save(), it.split.clone());
        SavedRegister {
            limits: self.limits.iter().map(save).collect(),
            next: self.next,
            fences: self.fences.clone(),
            changes: self.changes,
            seen: self.seen.clone(),
            absent: self.absent.clone(),
        }
    }

    /// From a Raft snapshot, with the document that was in force.
    pub(crate) fn restore(saved: SavedRegister, snapshot: &Snapshot) -> Self {
        let restore = |(name, numbers, split): (Name, binding::SavedNumbers, Split)| {
            let limit = snapshot.limits.get(&name)?;
            Some((name, Registered { numbers: Numbers::restore(numbers, limit), split }))
        };
        Self {
            limits: saved.limits.into_iter().filter_map(restore).collect(),
            next: saved.next,
            fences: saved.fences,
            changes: saved.changes,
            seen: saved.seen,
            absent: saved.absent,
        }
    }
}

/// What of a register stands in a Raft snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedRegister {
    limits: Vec<(Name, binding::SavedNumbers, Split)>,
    next: LimitId,
    fences: BTreeMap<RegionId, Fence>,
    changes: u64,
    seen: BTreeMap<NodeName, u64>,
    absent: Absent,
}
