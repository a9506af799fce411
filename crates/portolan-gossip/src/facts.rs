//! What each node says about itself, and which saying is the newest.
//!
//! Decides by (incarnation, version), both drawn by the node the fact is about; of two values under one stamp, which
//! only a faulty writer makes, the greater wins, so that all nodes agree. A higher incarnation erases all facts of a
//! lower one. Merging is a join: commutative, associative, idempotent. Never reads what a value means.

use std::{collections::BTreeMap, fmt};

use portolan_model::{HashKey, NodeName, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{MAX_KEY_LEN, MAX_KEYS_PER_NODE, MAX_NODES, MAX_VALUE_LEN};

/// The name of a fact: 1 to [`MAX_KEY_LEN`] bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FactKey(String);

/// A text that is no [`FactKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a fact's key has 1 to {MAX_KEY_LEN} bytes, this has {len}")]
pub struct FactKeyError {
    /// Length in bytes.
    pub len: usize,
}

impl FactKey {
    /// Checks `text` and takes it as a key.
    pub fn new(text: &str) -> Result<Self, FactKeyError> {
        Self::try_from(text.to_owned())
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FactKey {
    type Error = FactKeyError;

    fn try_from(text: String) -> Result<Self, FactKeyError> {
        if text.is_empty() || text.len() > MAX_KEY_LEN { Err(FactKeyError { len: text.len() }) } else { Ok(Self(text)) }
    }
}

impl From<FactKey> for String {
    fn from(key: FactKey) -> Self {
        key.0
    }
}

impl fmt::Display for FactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One fact as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FactUpdate {
    /// Whom the fact is about, and who wrote it.
    pub node: NodeName,
    /// Which fact.
    pub key: FactKey,
    /// The writer's life.
    pub incarnation: u64,
    /// Counts the writer's publications within its life.
    pub version: u64,
    /// What is said; opaque here.
    pub value: Vec<u8>,
}

impl FactUpdate {
    /// Upper bound of the encoded length in bytes.
    pub fn encoded_len_bound(&self) -> usize {
        const NUMBERS_AND_LENGTHS: usize = 9 + 9 + 9;
        self.node.as_str().len() + self.key.0.len() + self.value.len() + NUMBERS_AND_LENGTHS
    }
}

/// One fact as it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The writer's life.
    pub incarnation: u64,
    /// Counts the writer's publications within its life.
    pub version: u64,
    /// What is said.
    pub value: Vec<u8>,
    /// When this process took it, directly or through others.
    pub received: Timestamp,
}

/// What one node holds about another, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestEntry {
    /// Whom the facts are about.
    pub node: NodeName,
    /// The life they belong to.
    pub incarnation: u64,
    /// The highest version among them.
    pub version: u64,
    /// Over keys, versions and values: tells a gap below the highest version.
    pub checksum: u64,
}

/// What one node holds about all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub Vec<DigestEntry>);

impl Digest {
    /// Upper bound of the encoded length in bytes.
    pub fn encoded_len_bound(&self) -> usize {
        self.0.iter().map(|entry| entry.node.as_str().len() + 1 + 27).sum()
    }
}

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merged {
    /// The update was newer and is held from now on.
    Newer,
    /// It was held already, or something newer is.
    Known,
    /// It would pass a bound: the value's length, keys per node, or nodes.
    Refused,
}

/// Who should hear what after a digest was compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Nodes of which we hold something the other lacks.
    pub to_send: Vec<NodeName>,
    /// Nodes of which the other holds something we lack.
    pub to_request: Vec<NodeName>,
}

/// All facts this node holds.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    nodes: BTreeMap<NodeName, Held>,
}

#[derive(Clone, Debug)]
struct Held {
    incarnation: u64,
    facts: BTreeMap<FactKey, Fact>,
    /// Of `facts`, as digests tell them.
    version: u64,
    checksum: u64,
}

impl Facts {
    /// The fact `key` about `node`.
    pub fn fact(&self, node: &NodeName, key: &FactKey) -> Option<&Fact> {
        self.nodes.get(node)?.facts.get(key)
    }

    /// Every fact, ordered by node and key.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeName, &FactKey, &Fact)> {
        self.nodes.iter().flat_map(|(node, held)| held.facts.iter().map(move |(key, fact)| (node, key, fact)))
    }

    /// Number of nodes about which something is held.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Whether anything is held about `node`.
    pub fn knows(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Joins one update.
    pub fn merge(&mut self, update: FactUpdate, now: Timestamp) -> Merged {
        if update.value.len() > MAX_VALUE_LEN {
            return Merged::Refused;
        }
        if !self.nodes.contains_key(&update.node) && self.nodes.len() >= MAX_NODES {
            return Merged::Refused;
        }
        let FactUpdate { node, key, incarnation, version, value } = update;
        let held = self.nodes.entry(node).or_insert_with(|| Held::new(incarnation));
        if incarnation < held.incarnation {
            return Merged::Known;
        }
        if incarnation > held.incarnation {
            *held = Held::new(incarnation);
        }
        match held.facts.get(&key) {
            Some(fact) if (fact.version, &fact.value) >= (version, &value) => return Merged::Known,
            None if held.facts.len() >= MAX_KEYS_PER_NODE => return Merged::Refused,
            _ => {}
        }
        held.facts.insert(key, Fact { incarnation, version, value, received: now });
        held.sum_up();
        Merged::Newer
    }

    /// Every fact about `node`, as updates.
    pub fn updates_of(&self, node: &NodeName) -> Vec<FactUpdate> {
        let Some(held) = self.nodes.get(node) else { return Vec::new() };
        let update = |(key, fact): (&FactKey, &Fact)| FactUpdate {
            node: node.clone(),
            key: key.clone(),
            incarnation: fact.incarnation,
            version: fact.version,
            value: fact.value.clone(),
        };
        held.facts.iter().map(update).collect()
    }

    /// What is held, one line per node.
    pub fn digest(&self) -> Digest {
        Digest(self.nodes.iter().map(|(node, held)| held.digest(node)).collect())
    }

    /// Compares what is held with what a peer holds.
    pub fn compare(&self, theirs: &Digest) -> Difference {
        let mut difference = Difference::default();
        let theirs: BTreeMap<&NodeName, &DigestEntry> = theirs.0.iter().map(|entry| (&entry.node, entry)).collect();
        for (node, held) in &self.nodes {
            let Some(&entry) = theirs.get(node) else {
                difference.to_send.push(node.clone());
                continue;
            };
            let ours = (held.incarnation, held.version, held.checksum);
            if ours == (entry.incarnation, entry.version, entry.checksum) {
                continue;
            }
            // Within one life either side may lack something older than its newest, so both speak.
            if held.incarnation >= entry.incarnation {
                difference.to_send.push(node.clone());
            }
            if entry.incarnation >= held.incarnation {
                difference.to_request.push(node.clone());
            }
        }
        let unknown = theirs.keys().filter(|node| !self.nodes.contains_key(**node));
        difference.to_request.extend(unknown.map(|node| (*node).clone()));
        difference
    }
}

impl Held {
    fn new(incarnation: u64) -> Self {
        let mut held = Self { incarnation, facts: BTreeMap::new(), version: 0, checksum: 0 };
        held.sum_up();
        held
    }

    /// Brings what digests tell up to the facts: those come once, and are compared with every peer's.
    fn sum_up(&mut self) {
        let mut bytes = Vec::new();
        for (key, fact) in &self.facts {
            bytes.extend_from_slice(&CHECKSUM_KEY.hash(&[key.0.as_bytes(), &fact.value]).0.to_le_bytes());
            bytes.extend_from_slice(&fact.version.to_le_bytes());
        }
        self.version = self.facts.values().map(|fact| fact.version).max().unwrap_or(0);
        self.checksum = CHECKSUM_KEY.hash(&[&bytes]).0 as u64;
    }

    fn digest(&self, node: &NodeName) -> DigestEntry {
        let Self { incarnation, version, checksum, .. } = *self;
        DigestEntry { node: node.clone(), incarnation, version, checksum }
    }
}

/// Not a secret: the checksum finds gaps, it does not authenticate (the mesh does).
const CHECKSUM_KEY: HashKey = HashKey::new([0; 16]);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn update(node: &str, key: &str, incarnation: u64, version: u64, value: &[u8]) -> FactUpdate {
        FactUpdate {
            node: NodeName::new(node).expect("a name"),
            key: FactKey::new(key).expect("a key"),
            incarnation,
            version,
            value: value.to_vec(),
        }
    }

    fn joined<'a>(updates: impl IntoIterator<Item = &'a FactUpdate>) -> Facts {
        let mut facts = Facts::default();
        for update in updates {
            facts.merge(update.clone(), Timestamp::ZERO);
        }
        facts
    }

    fn some_update() -> impl Strategy<Value = FactUpdate> {
        let parts = (0..3usize, 0..3usize, 0..3u64, 0..4u64, 0..3u8);
        parts.prop_map(|(node, key, incarnation, version, value)| {
            update(["a", "b", "c"][node], ["x", "y", "z"][key], incarnation, version, &[value])
        })
    }

    proptest! {
        #[test]
        fn any_order_and_any_repetition_gives_the_same_facts(
            updates in proptest::collection::vec(some_update(), 0..24), shift in 0..24usize,
        ) {
            let once = joined(&updates);
            let mut turned = updates.clone();
            turned.rotate_left(shift.min(updates.len()));
            let twice = joined(turned.iter().chain(updates.iter().rev()));
            prop_assert_eq!(once.digest(), twice.digest());
        }

        #[test]
        fn two_nodes_agree_after_each_answered_the_others_digest(
            ours in proptest::collection::vec(some_update(), 0..16),
            theirs in proptest::collection::vec(some_update(), 0..16),
        ) {
            let (mut left, mut right) = (joined(&ours), joined(&theirs));
            let difference = left.compare(&right.digest());
            let to_right: Vec<_> = difference.to_send.iter().flat_map(|node| left.updates_of(node)).collect();
            let to_left: Vec<_> = difference.to_request.iter().flat_map(|node| right.updates_of(node)).collect();
            for update in to_right { right.merge(update, Timestamp::ZERO); }
            for update in to_left { left.merge(update, Timestamp::ZERO); }
            prop_assert_eq!(left.digest(), right.digest());
        }
    }

    #[test]
    fn a_new_life_erases_what_the_old_one_said() {
        let facts = joined(&[update("a", "x", 1, 9, b"old"), update("a", "y", 2, 1, b"new")]);
        let keys: Vec<_> = facts.iter().map(|(_, key, fact)| (key.as_str(), fact.value.as_slice())).collect();
        assert_eq!(keys, [("y", b"new".as_slice())]);
    }

    #[test]
    fn what_passes_a_bound_is_refused() {
        let mut facts = Facts::default();
        let mut check = |update, expected| assert_eq!(facts.merge(update, Timestamp::ZERO), expected);
        check(update("a", "x", 1, 1, &[0; MAX_VALUE_LEN]), Merged::Newer);
        check(update("a", "x", 1, 2, &[0; MAX_VALUE_LEN + 1]), Merged::Refused);
        for key in 1..MAX_KEYS_PER_NODE {
            check(update("a", &format!("k{key}"), 1, 1, b""), Merged::Newer);
        }
        check(update("a", "one-more", 1, 1, b""), Merged::Refused);
        for node in 1..MAX_NODES {
            check(update(&format!("n{node}"), "x", 1, 1, b""), Merged::Newer);
        }
        check(update("one-node-more", "x", 1, 1, b""), Merged::Refused);
        assert!(FactKey::new("").is_err() && FactKey::new(&"k".repeat(MAX_KEY_LEN + 1)).is_err());
    }
}
