//! What a node publishes about itself, and what nodes have published, read back.
//!
//! Decides which facts are fresh. Facts advise; nothing that must be safe is decided from them alone.

use std::time::Duration;

use portolan_config::RegionMap;
use portolan_gossip::{FactKey, Facts};
use portolan_model::{HashKey, Name, NodeName, RegionId, Revision, Timestamp, codec};
use serde::{Deserialize, Serialize};

/// How old facts may be to count: three publications.
pub const FRESH: Duration = Duration::from_secs(3);

/// How often a node publishes although nothing changed.
pub const PUBLISH_PERIOD: Duration = Duration::from_secs(1);

/// What one node says about itself. At 20 regions less than 300 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The region it serves.
    pub region: RegionId,
    /// The revision it runs.
    pub revision: Revision,
    /// Whether it can serve requests.
    pub ready: bool,
    /// Whether it has seen the order to drain its region.
    pub draining: bool,
    /// Endpoints it holds for usable.
    pub endpoints_usable: u32,
    /// Endpoints it knows.
    pub endpoints: u32,
    /// Identifies the list of regions that `sights` follows.
    pub region_list: u64,
    /// What it hears of each region, in the order of names.
    pub sights: Vec<Sight>,
    /// Nodes of its own region that have fallen silent.
    pub silent: Vec<NodeName>,
    /// What it is asked for of limits that are split by demand, in units per thousand seconds; without those that it has
    /// not averaged for long enough.
    pub demand: Vec<(Name, u64)>,
}

impl NodeFacts {
    /// Whether something changed that others act on, ages and counts aside.
    pub fn differs_in_state(&self, before: &Self) -> bool {
        let kinds = |facts: &Self| facts.sights.iter().map(std::mem::discriminant).collect::<Vec<_>>();
        (self.revision, self.ready, self.draining, &self.silent)
            != (before.revision, before.ready, before.draining, &before.silent)
            || kinds(self) != kinds(before)
    }

    /// Whether this says the same of regions as `before` did, ages aside.
    pub fn judges_as(&self, before: &Self) -> bool {
        let [now, then] = [self, before].map(|facts| facts.sights.iter().map(std::mem::discriminant));
        (&self.region, self.region_list, self.ready) == (&before.region, before.region_list, before.ready)
            && now.eq(then)
    }
}

/// What an observer hears of a region's nodes directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sight {
    /// Nothing yet, and the observer has not listened for long.
    Unknown,
    /// Something, lately.
    Heard {
        /// Time since the last message.
        #[serde(with = "millis")]
        age: Duration,
    },
    /// Nothing for too long.
    Silent {
        /// Time since the last message, or since the observer started.
        #[serde(with = "millis")]
        age: Duration,
    },
}

/// Ages as whole milliseconds: of a region that is heard a byte or three, where nanoseconds take six.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(age: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

/// The facts of one node as this node holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What it said.
    pub facts: NodeFacts,
    /// Its region's place in this node's list of regions.
    pub place: Option<usize>,
    /// When it reached this node.
    pub received: Timestamp,
}

impl Known {
    /// Whether the node said it lately.
    pub fn is_fresh(&self, now: Timestamp) -> bool {
        now.since(self.received) <= FRESH
    }
}

/// The key under which [`NodeFacts`] are published.
pub fn key() -> FactKey {
    FactKey::new("node").expect("four bytes are a key")
}

/// Reads what `node` published; `None` when nothing is held or it does not read (a node of another version).
pub fn read(facts: &Facts, node: &NodeName, regions: &RegionMap) -> Option<Known> {
    let fact = facts.fact(node, &key())?;
    let facts: NodeFacts = codec::decode(&fact.value).ok()?;
    let place = regions.ids().binary_search(&facts.region).ok();
    Some(Known { facts, place, received: fact.received })
}

/// Identifies a list of regions, so that sights are only read against the list they were written for.
pub fn region_list(regions: &[RegionId]) -> u64 {
    let names: Vec<&[u8]> = regions.iter().map(|region| region.as_str().as_bytes()).collect();
    HashKey::new([0; 16]).hash(&names).0 as u64
}
