//! Nodes that their region's roster has dropped and that may spend yet. A roster is a matter of who is heard; a node that
//! is not heard may live on beside its standby and go on by the split that it knows. So a change waits for its word, too,
//! until every node of the roster has said that it took over what is its own: then nobody acknowledges the spend of any
//! other, and whoever is listed anew has read the log up to there.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{NodeName, RegionId};
use serde::{Deserialize, Serialize};

use crate::Roster;

/// Of each region that has any: the nodes that were dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absent(BTreeMap<RegionId, Dropped>);

/// Those of one region.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Dropped {
    nodes: BTreeSet<NodeName>,
    /// Nodes of the present roster that have taken over.
    settled: BTreeSet<NodeName>,
}

impl Absent {
    /// Those of a region.
    pub fn of<'a>(&'a self, region: &RegionId) -> impl Iterator<Item = &'a NodeName> + use<'a> {
        self.0.get(region).into_iter().flat_map(|dropped| &dropped.nodes)
    }

    /// Follows a new roster that came after `before`.
    pub fn follow(&mut self, region: &RegionId, before: &[NodeName], roster: &Roster) {
        let mut dropped = self.0.remove(region).unwrap_or_default();
        dropped.settled.clear();
        dropped.nodes.extend(before.iter().cloned());
        dropped.nodes.retain(|node| !roster.contains(node));
        if !dropped.nodes.is_empty() {
            self.0.insert(region.clone(), dropped);
        }
    }

    /// Whether it matters that `node`, which is listed, takes over.
    pub fn waits_for(&self, region: &RegionId, node: &NodeName) -> bool {
        self.0.get(region).is_some_and(|dropped| !dropped.settled.contains(node))
    }

    /// `node` has taken over what the roster gives it.
    pub fn settle(&mut self, region: &RegionId, node: &NodeName, roster: &Roster) {
        let Some(dropped) = self.0.get_mut(region) else { return };
        dropped.settled.insert(node.clone());
        if roster.nodes.iter().all(|listed| dropped.settled.contains(listed)) {
            self.0.remove(region);
        }
    }
}
