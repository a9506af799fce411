//! The nodes of a region that share its limits, in the order of an epoch. Decides how the list changes; who owns which
//! key follows from it in `portolan_limits`. Never empty once a node has joined: a region without any node in reach
//! keeps its last list, since nobody is left to take over.

use std::collections::{BTreeMap, VecDeque};

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

/// The last rosters of a region before its present one, as what each changed in the one before. A node that hears of
/// several at once follows them in order: of an epoch that it does not know it cannot say whose its keys were.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turns(VecDeque<Turn>);

/// What one epoch changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    came: Vec<NodeName>,
    went: Vec<NodeName>,
}

impl Turns {
    /// Keeps what became of `before`, and drops the oldest beyond the bounds.
    pub fn keep(&mut self, before: &Roster, after: &Roster) {
        if before.epoch == after.epoch {
            return;
        }
        let less = |one: &Roster, other: &Roster| one.nodes.iter().filter(|it| !other.contains(it)).cloned().collect();
        self.0.push_back(Turn { came: less(after, before), went: less(before, after) });
        let names = |turns: &VecDeque<Turn>| turns.iter().map(|turn| turn.came.len() + turn.went.len()).sum::<usize>();
        while self.0.len() > MAX_TURNS || names(&self.0) > MAX_TURNED {
            self.0.pop_front();
        }
    }

    /// The rosters after `epoch` as far as they are known, oldest first, up to and with the `present` one.
    pub fn since(&self, epoch: u64, present: &Roster) -> Vec<Roster> {
        let mut rosters = vec![present.clone()];
        for turn in self.0.iter().rev() {
            let after = &rosters[rosters.len() - 1];
            let mut nodes: Vec<NodeName> = after.nodes.iter().filter(|it| !turn.came.contains(it)).cloned().collect();
            nodes.extend(turn.went.iter().cloned());
            nodes.sort();
            rosters.push(Roster { epoch: after.epoch.saturating_sub(1), nodes });
        }
        rosters.retain(|roster| roster.epoch > epoch);
        rosters.reverse();
        rosters
    }
}

/// Rosters of a region that are kept beside the present one: as many as a node of it ranks. A rolling deploy makes two for
/// each node, and a log that is some seconds late brings a few at once.
const MAX_TURNS: usize = 15;

/// Names in them.
const MAX_TURNED: usize = 256;
