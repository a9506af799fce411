//! The nodes of a region that share its limits, in the order of an epoch. Decides how the list changes; who owns which
//! key follows from it in `portolan_limits`. Never empty once a node has joined: a region without any node in reach
//! keeps its last list, since nobody is left to take over.

use std::collections::BTreeMap;

use portolan_model::{NodeName, RegionId};
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// The nodes that share a region's limits from one epoch to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Grows with every change; fences whatever was agreed under an earlier list.
    pub epoch: u64,
    /// The nodes by name.
    pub nodes: Vec<NodeName>,
}

impl Roster {
    /// Whether `node` is listed.
    pub fn contains(&self, node: &NodeName) -> bool {
        self.nodes.binary_search(node).is_ok()
    }

    /// Lists `node`. A new epoch also when it is listed already: it came without its past, and what its earlier process
    /// agreed with the others is void.
    pub(crate) fn join(&mut self, node: &NodeName) {
        self.epoch += 1;
        if let Err(at) = self.nodes.binary_search(node) {
            self.nodes.insert(at, node.clone());
        }
    }

    /// Lists exactly the `present` nodes, of which each must be one of `members`.
    pub(crate) fn change(
        &mut self,
        region: &RegionId,
        expected: u64,
        present: &[NodeName],
        members: &BTreeMap<&NodeName, &RegionId>,
    ) -> Result<u64, Refusal> {
        if self.epoch != expected {
            return Err(Refusal::StaleRoster { region: region.clone(), expected, current: self.epoch });
        }
        if let Some(node) = present.iter().find(|node| members.get(node) != Some(&region)) {
            return Err(Refusal::NotOfRegion { node: node.clone(), region: region.clone() });
        }
        let mut nodes = present.to_vec();
        nodes.sort();
        nodes.dedup();
        if nodes.is_empty() {
            return Err(Refusal::EmptyRoster { region: region.clone() });
        }
        if nodes != self.nodes {
            self.epoch += 1;
            self.nodes = nodes;
        }
        Ok(self.epoch)
    }
}
