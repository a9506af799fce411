//! Which nodes have told an owner what they hold in its shards. A shard may be spent from when all nodes of the roster have,
//! and every other node of the region has as well, or can begin nothing any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{NodeName, Timestamp};

use super::{Spot, Survey};
use crate::region::{Ranking, Shard, ShardSet};

/// What the nodes have told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By node: shards of which it told everything, since when all that it holds comes from this process.
    of: BTreeMap<NodeName, ShardSet>,
    /// By node: what it is asked, as far as it was answered.
    asked: BTreeMap<NodeName, Survey>,
    /// Shards of which something was told of limits that were not known here then.
    unknown: ShardSet,
    ask_at: Timestamp,
}

impl Told {
    /// Follows a new roster. Of shards that are not `kept`, and of nodes that were off the roster, nothing is known.
    pub fn handle_ranking(&mut self, before: &Ranking, after: &Ranking, kept: &ShardSet) {
        self.of.retain(|node, _| before.nodes().contains(node) && after.nodes().contains(node));
        self.of.values_mut().for_each(|shards| *shards = shards.and(kept));
        self.unknown = self.unknown.and(kept);
        self.forget_questions();
    }

    /// Follows limits that are new here. What was told of them before is to be told anew, of the shards that are returned.
    ///
    /// Of the others nobody holds anything of these limits: a node that has told takes from this one alone, which gave
    /// nothing of what it did not know, and a number of a limit is never that of another one later.
    pub fn handle_new_limits(&mut self) -> ShardSet {
        let unknown = std::mem::take(&mut self.unknown);
        if !unknown.is_empty() {
            self.of.values_mut().for_each(|shards| *shards = shards.without(&unknown));
            // One of them may be answered in part.
            self.forget_questions();
        }
        unknown
    }

    /// The questions that are due to `nodes`, about the shards among `owned` that they have not told of.
    pub fn poll(
        &mut self,
        nodes: &BTreeSet<NodeName>,
        owned: &ShardSet,
        (epoch, life): (u64, u64),
        now: Timestamp,
    ) -> Vec<(NodeName, Survey)> {
        if now < self.ask_at {
            return Vec::new();
        }
        self.ask_at = now + ASK_AGAIN;
        let untold = |node: &&NodeName| !owned.without(&self.of(node)).is_empty();
        let silent: Vec<&NodeName> = nodes.iter().filter(untold).collect();
        let question = |node: &NodeName, asked: &mut BTreeMap<NodeName, Survey>, told: ShardSet| {
            let anew = || Survey { epoch, life, shards: owned.without(&told), after: None };
            *asked.entry(node.clone()).or_insert_with(anew)
        };
        let told: Vec<(NodeName, ShardSet)> = silent.into_iter().map(|node| (node.clone(), self.of(node))).collect();
        told.into_iter().map(|(node, told)| (node.clone(), question(&node, &mut self.asked, told))).collect()
    }

    /// Whether an answer is to what a node was asked last.
    pub fn expects(&self, node: &NodeName, survey: &Survey) -> bool {
        self.asked.get(node) == Some(survey)
    }

    /// A node holds something of a limit that is not known here.
    pub fn handle_unknown(&mut self, shard: Shard) {
        self.unknown.insert(shard);
    }

    /// What a node holds of a shard could not be taken in: it has not told of it, and is asked again.
    pub fn handle_unbooked(&mut self, node: &NodeName, shard: Shard) {
        if let Some(asked) = self.asked.get_mut(node) {
            asked.shards = asked.shards.without(&ShardSet::from_iter([shard]));
        }
    }

    /// A node has answered, up to `last`, or everything. Returns what it is asked next.
    pub fn handle_answer(&mut self, node: &NodeName, last: Option<Spot>, all: bool) -> Option<Survey> {
        let asked = self.asked.get_mut(node)?;
        if !all {
            asked.after = last.or(asked.after);
            return Some(*asked);
        }
        let shards = asked.shards;
        self.asked.remove(node);
        let told = self.of.entry(node.clone()).or_default();
        *told = told.or(&shards);
        None
    }

    /// Shards of which a node has told everything.
    pub fn of(&self, node: &NodeName) -> ShardSet {
        self.of.get(node).copied().unwrap_or_default()
    }

    /// Shards of which all of these have.
    pub fn of_all<'a>(&self, nodes: impl Iterator<Item = &'a NodeName>) -> ShardSet {
        nodes.fold(ShardSet::ALL, |all, node| all.and(&self.of(node)))
    }

    fn forget_questions(&mut self) {
        self.asked.clear();
        self.ask_at = Timestamp::ZERO;
    }
}

/// After which time a node that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
