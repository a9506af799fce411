//! Which node of a region owns a key, and which stands by. Decided from a roster alone, by every node alike: rendezvous
//! hashing (Thaler and Ravishankar, 1998), so a node that goes leaves its shards to their standbys, and a node that comes
//! takes shards from their owners; no other shard moves. Nodes are told apart by the numbers their names end with, so that
//! nodes of one number own the same shards in regions with nodes of the same numbers: then a node has one counterpart in
//! each other region, and all it says to that region in a round is one packet.

use std::collections::BTreeMap;

use portolan_config::Roster;
use portolan_model::{HashKey, NodeName};

use crate::{
    key::Key,
    region::shards::{SHARDS, Shard, ShardSet},
};

/// Owner and standby of every shard under one roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    roster: Roster,
    /// Places in the roster of owner and standby; the standby of a roster of one is the owner itself.
    seats: Box<[(u16, u16)]>,
}

impl Ranking {
    /// Ranks the nodes of a roster; beyond 1000 nodes the last by name own nothing.
    pub fn new(roster: &Roster) -> Self {
        let mut roster = roster.clone();
        roster.nodes.truncate(MAX_NODES);
        let seats = match roster.nodes.len() {
            0 => Box::default(),
            1 => Shard::all().map(|_| (0, 0)).collect(),
            _ => {
                let marks = marks(&roster.nodes);
                Shard::all().map(|shard| seats(shard, &marks)).collect()
            }
        };
        Self { roster, seats }
    }

    /// The roster's epoch.
    pub fn epoch(&self) -> u64 {
        self.roster.epoch
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> &[NodeName] {
        &self.roster.nodes
    }

    /// The owner of a shard; none of an empty roster.
    pub fn owner(&self, shard: Shard) -> Option<&NodeName> {
        let (owner, _) = self.seats.get(shard.index())?;
        self.roster.nodes.get(usize::from(*owner))
    }

    /// The node that stands by for a shard; none when its owner is alone.
    pub fn standby(&self, shard: Shard) -> Option<&NodeName> {
        let (owner, standby) = self.seats.get(shard.index())?;
        if owner == standby { None } else { self.roster.nodes.get(usize::from(*standby)) }
    }

    /// The owner of a key.
    pub fn owner_of(&self, key: Key) -> Option<&NodeName> {
        self.owner(Shard::of(key))
    }

    /// The shards that `node` owns.
    pub fn owned(&self, node: &NodeName) -> ShardSet {
        let Some(seat) = self.seat(node) else { return ShardSet::default() };
        Shard::all().zip(&self.seats).filter(|(_, (owner, _))| *owner == seat).map(|(shard, _)| shard).collect()
    }

    /// The shards that `owner` owns and `standby` stands by for.
    pub fn pair(&self, owner: &NodeName, standby: &NodeName) -> ShardSet {
        let pair = self.seat(owner).zip(self.seat(standby)).filter(|(owner, standby)| owner != standby);
        Shard::all().zip(&self.seats).filter(|(_, seats)| Some(**seats) == pair).map(|(shard, _)| shard).collect()
    }

    fn seat(&self, node: &NodeName) -> Option<u16> {
        self.roster.nodes.iter().position(|listed| listed == node).and_then(|at| u16::try_from(at).ok())
    }
}

/// Places of the two highest weights; of equal ones the first by name.
fn seats(shard: Shard, marks: &[&str]) -> (u16, u16) {
    // No secret: names and shards are the operator's.
    let hash = HashKey::new(*b"portolan shards1");
    let mut ranked: Vec<(u128, u16)> = Vec::with_capacity(marks.len());
    for (at, mark) in (0u16..).zip(marks) {
        ranked.push((!hash.hash(&[&[shard.0], mark.as_bytes()]).0, at));
    }
    ranked.sort_unstable();
    let owner = ranked[0].1;
    (owner, ranked.get(1).map_or(owner, |standby| standby.1))
}

/// What tells each node from the others: the number that its name ends with, or the whole name where there is none or
/// another node has the same.
fn marks(nodes: &[NodeName]) -> Vec<&str> {
    let mut named = BTreeMap::<&str, u32>::new();
    nodes.iter().for_each(|node| *named.entry(number(node)).or_default() += 1);
    let told_apart = |number: &&str| !number.is_empty() && named[number] == 1;
    nodes.iter().map(|node| Some(number(node)).filter(told_apart).unwrap_or(node.as_str())).collect()
}

fn number(node: &NodeName) -> &str {
    let name = node.as_str();
    &name[name.trim_end_matches(|last: char| last.is_ascii_digit()).len()..]
}

/// Nodes of one region that may own keys.
const MAX_NODES: usize = 1000;

const _: () = assert!(SHARDS == 1 << u8::BITS);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranking(numbers: impl IntoIterator<Item = u16>) -> Ranking {
        let mut nodes: Vec<NodeName> =
            numbers.into_iter().map(|number| NodeName::new(&format!("eu-west-{number}")).expect("a name")).collect();
        nodes.sort();
        Ranking::new(&Roster { epoch: 1, nodes })
    }

    #[test]
    fn every_node_of_a_region_owns_about_as_much_as_another() {
        let check = |nodes: u16, least: usize, most: usize| {
            let ranking = ranking(1..=nodes);
            let owned: Vec<usize> = ranking.nodes().iter().map(|node| ranking.owned(node).len()).collect();
            assert_eq!(owned.iter().sum::<usize>(), SHARDS);
            assert!(owned.iter().all(|owned| (least..=most).contains(owned)), "{nodes} nodes: {owned:?}");
        };
        check(1, 256, 256);
        check(2, 108, 148);
        check(3, 65, 105);
        check(5, 36, 66);
        check(20, 4, 24);
    }

    #[test]
    fn a_node_alone_has_no_standby_and_an_empty_roster_no_owner() {
        assert!(Shard::all().all(|shard| ranking([1]).standby(shard).is_none()));
        assert!(Shard::all().all(|shard| ranking([]).owner(shard).is_none()));
    }

    #[test]
    fn nodes_of_one_number_own_the_same_shards_in_every_region_and_others_are_told_apart_by_name() {
        let owners = |names: &[&str]| {
            let mut nodes: Vec<NodeName> = names.iter().map(|name| NodeName::new(name).expect("a name")).collect();
            nodes.sort();
            let ranking = Ranking::new(&Roster { epoch: 1, nodes });
            let owner = |shard| ranking.owner(shard).map_or(String::new(), ToString::to_string);
            Shard::all().map(owner).collect::<Vec<String>>()
        };
        let west = owners(&["eu-west-1", "eu-west-2", "eu-west-3"]);
        let east = owners(&["us-east-1", "us-east-2", "us-east-3"]);
        assert!(west.iter().zip(&east).all(|(west, east)| west.as_bytes()[8] == east.as_bytes()[8]));
        let named = owners(&["red", "blue-2", "green-2"]);
        assert!(["red", "blue-2", "green-2"].iter().all(|name| named.iter().filter(|of| of == name).count() > 50));
    }

    proptest! {
        #[test]
        fn a_node_that_goes_leaves_its_shards_to_their_standbys_and_no_other_shard_moves(
            numbers in prop::collection::btree_set(0..500u16, 2..12), gone in any::<prop::sample::Index>(),
        ) {
            let before = ranking(numbers.iter().copied());
            let number = *gone.get(&numbers.iter().copied().collect::<Vec<_>>());
            let after = ranking(numbers.iter().copied().filter(|other| *other != number));
            let gone = NodeName::new(&format!("eu-west-{number}")).expect("a name");
            for shard in Shard::all() {
                prop_assert_ne!(before.owner(shard), before.standby(shard));
                let heir = if before.owner(shard) == Some(&gone) { before.standby(shard) } else { before.owner(shard) };
                prop_assert_eq!(after.owner(shard), heir);
            }
        }
    }
}
