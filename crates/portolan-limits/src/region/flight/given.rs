//! The owner's side: what every node holds of each key. Every unit here is counted as used in the key's entry; the caller
//! does that, and gives back there what these functions return.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
};

use portolan_model::NodeName;

use super::{Allotment, Beyond, Hold, Spot};

/// What nodes hold of the keys that this node owns.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// The latest process of each node that was heard of.
    lives: BTreeMap<NodeName, u64>,
    parts: BTreeMap<Spot, BTreeMap<NodeName, Part>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Part {
    number: u64,
    units: u64,
}

impl Part {
    /// What its node is told when `used` of the key are held, and no more than `most` may be.
    fn told(self, spot: Spot, used: u64, most: u64) -> Allotment {
        let (units, beyond) = match used <= most {
            true => (self.units, Beyond::More),
            false => (super::kept(self.units, used, most), Beyond::Recall),
        };
        Allotment { spot, number: self.number, units, beyond }
    }
}

/// How a hold changes what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The state is known, or older than the one that is.
    None,
    /// So much more is held than was known.
    More(u64),
    /// So much went back.
    Less(u64),
}

impl Given {
    /// Hears from the process `life` of a node. `None`: a later one is known, so this one is dead. Else what its earlier
    /// processes held: that ended with them.
    pub fn meet(&mut self, node: &NodeName, life: u64) -> Option<Vec<(Spot, u64)>> {
        let known = self.lives.entry(node.clone()).or_insert(life);
        if *known >= life {
            return (*known == life).then(Vec::new);
        }
        *known = life;
        Some(self.take(node))
    }

    /// The latest process of a node that was heard of.
    pub fn life(&self, node: &NodeName) -> Option<u64> {
        self.lives.get(node).copied()
    }

    /// What taking in a hold would change.
    pub fn change(&self, node: &NodeName, hold: &Hold) -> Change {
        let known = self.part(node, hold.spot).unwrap_or_default();
        match hold.number > known.number {
            true if hold.units > known.units => Change::More(hold.units - known.units),
            true if hold.units < known.units => Change::Less(known.units - hold.units),
            _ => Change::None,
        }
    }

    /// Takes in a hold.
    pub fn book(&mut self, node: &NodeName, hold: &Hold) {
        if self.part(node, hold.spot).is_none_or(|known| known.number < hold.number) {
            self.set(node, hold.spot, Part { number: hold.number, units: hold.units });
        }
    }

    /// Whether a node that says this may be allotted more: it knows all that it was allotted.
    pub fn knows(&self, node: &NodeName, hold: &Hold) -> bool {
        let known = self.part(node, hold.spot).unwrap_or(Part { number: hold.number, units: 0 });
        (known.number, known.units) == (hold.number, hold.units)
    }

    /// The answer to a hold for which `taken` more units were taken.
    pub fn allot(&mut self, node: &NodeName, hold: &Hold, taken: u64, beyond: Beyond) -> Allotment {
        let known = self.part(node, hold.spot).unwrap_or(Part { number: hold.number, units: 0 });
        let part = Part { units: known.units + taken, ..known };
        self.set(node, hold.spot, part);
        Allotment { spot: hold.spot, number: part.number, units: part.units, beyond }
    }

    /// The answer to a hold of a key of which `used` are held, and no more than `most` may be.
    pub fn recall(&self, node: &NodeName, hold: &Hold, used: u64, most: u64) -> Allotment {
        let nothing = Allotment { spot: hold.spot, number: hold.number, units: 0, beyond: Beyond::Nothing };
        self.part(node, hold.spot).map_or(nothing, |part| part.told(hold.spot, used, most))
    }

    /// What the holders of a key hold, as they are to be told it when `used` of it are, and no more than `most` may be.
    pub fn reminders(&self, spot: Spot, used: u64, most: u64) -> Vec<(NodeName, Allotment)> {
        let parts = self.parts.get(&spot).into_iter().flatten();
        parts.map(|(node, part)| (node.clone(), part.told(spot, used, most))).collect()
    }

    /// Keys of which other nodes hold something, in order, beginning `after` one.
    pub fn spots_after(&self, after: Option<Spot>) -> impl Iterator<Item = Spot> {
        let from = after.map_or(Unbounded, Excluded);
        self.parts.range((from, Unbounded)).map(|(spot, _)| *spot)
    }

    /// Units of a key that other nodes hold.
    pub fn out(&self, spot: Spot) -> u64 {
        self.parts.get(&spot).map_or(0, |parts| parts.values().map(|part| part.units).sum())
    }

    /// Nodes that hold anything.
    pub fn holders(&self) -> BTreeSet<NodeName> {
        self.parts.values().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Forgets all that a node holds: what that was.
    pub fn take(&mut self, node: &NodeName) -> Vec<(Spot, u64)> {
        let part = |(spot, parts): (&Spot, &mut BTreeMap<NodeName, Part>)| Some((*spot, parts.remove(node)?.units));
        let taken = self.parts.iter_mut().filter_map(part).collect();
        self.parts.retain(|_, parts| !parts.is_empty());
        taken
    }

    /// Forgets keys that are not `kept`.
    pub fn retain(&mut self, kept: impl Fn(&Spot) -> bool) {
        self.parts.retain(|spot, _| kept(spot));
    }

    /// Keys of which something is held.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    fn part(&self, node: &NodeName, spot: Spot) -> Option<Part> {
        self.parts.get(&spot)?.get(node).copied()
    }

    fn set(&mut self, node: &NodeName, spot: Spot, part: Part) {
        let parts = self.parts.entry(spot).or_default();
        if part.units > 0 {
            parts.insert(node.clone(), part);
        } else {
            parts.remove(node);
        }
        if parts.is_empty() {
            self.parts.remove(&spot);
        }
    }
}
