//! To whom a node sends heartbeats, and how often. In a small fleet to all. In a large one to the nodes of its own region,
//! among the voters, and to the nodes of its own rank in every other region: so every node hears every region itself, and
//! what a node sends grows with the number of regions and not with the number of nodes.
//!
//! Decides from configuration and voters alone; of the other nodes gossip tells.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{NodeName, RegionId};

use crate::HEARTBEAT_PERIOD;

/// How often nodes of the same rank in other regions of a large fleet hear each other: five times within the silence
/// that takes a region out of DNS.
const FAR_PERIOD: Duration = Duration::from_secs(1);

/// Heartbeats that may be lost in a row before a neighbour counts as stale.
const MISSED: u32 = 5;

/// Other nodes up to which all are neighbours.
const SMALL_FLEET: usize = 15;

/// The neighbours of one node.
#[derive(Debug)]
pub struct Neighbours {
    me: NodeName,
    small: bool,
    /// Own region, and own rank elsewhere.
    peers: BTreeMap<NodeName, Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OwnRegion,
    OwnRank,
    Other,
}

impl Neighbours {
    /// Of `me` in `region` among `peers`.
    pub fn new(me: &NodeName, region: &RegionId, peers: &BTreeMap<NodeName, RegionId>) -> Self {
        let mut by_region = BTreeMap::<&RegionId, Vec<&NodeName>>::from([(region, vec![me])]);
        for (name, region) in peers {
            by_region.entry(region).or_default().push(name);
        }
        by_region.values_mut().for_each(|names| names.sort());
        let rank = |names: &[&NodeName], name: &NodeName| names.iter().position(|other| *other == name).unwrap_or(0);
        let (own, my_rank) = (by_region[region].len(), rank(&by_region[region], me));
        let kind = |name: &NodeName, of: &RegionId| {
            let names = &by_region[of];
            let ranks = names.len().min(own);
            match of == region {
                true => Kind::OwnRegion,
                false if rank(names, name) % ranks == my_rank % ranks => Kind::OwnRank,
                false => Kind::Other,
            }
        };
        let kinds = peers.iter().map(|(name, region)| (name.clone(), kind(name, region))).collect();
        Self { me: me.clone(), small: peers.len() <= SMALL_FLEET, peers: kinds }
    }

    /// How often `peer` and this node tell each other that they live, given who votes; `None`: never directly.
    pub fn period(&self, peer: &NodeName, voters: &[NodeName]) -> Option<Duration> {
        let kind = *self.peers.get(peer)?;
        self.period_of(kind, || voters.contains(peer) && voters.contains(&self.me))
    }

    /// The same of every peer, in the order of names.
    pub fn periods(&self, voters: &[NodeName]) -> impl Iterator<Item = (&NodeName, Option<Duration>)> {
        let votes = voters.contains(&self.me);
        let period = move |(peer, kind): (&_, &Kind)| self.period_of(*kind, || votes && voters.contains(peer));
        self.peers.iter().map(move |(peer, kind)| (peer, period((peer, kind))))
    }

    fn period_of(&self, kind: Kind, both_vote: impl FnOnce() -> bool) -> Option<Duration> {
        if self.small || kind == Kind::OwnRegion || both_vote() {
            return Some(HEARTBEAT_PERIOD);
        }
        (kind == Kind::OwnRank).then_some(FAR_PERIOD)
    }

    /// Silence after which a neighbour with heartbeats of this period is stale.
    pub fn stale_after(period: Duration) -> Duration {
        period * MISSED
    }

    /// The other nodes of the own region.
    pub fn own_region(&self) -> impl Iterator<Item = &NodeName> {
        self.peers.iter().filter(|(_, kind)| **kind == Kind::OwnRegion).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    /// Whom `me` sends heartbeats, with the period in milliseconds; regions have so many nodes.
    fn check(me: &str, regions: &[(&str, usize)], voters: &[&str], expected: &[(&str, u64)]) {
        let mut peers = BTreeMap::new();
        for (region, nodes) in regions {
            for number in 1..=*nodes {
                peers.insert(node(&format!("{region}-{number}")), RegionId::new(region).expect("a name"));
            }
        }
        let own = peers.remove(&node(me)).expect("one of them");
        let neighbours = Neighbours::new(&node(me), &own, &peers);
        let voters: Vec<NodeName> = voters.iter().map(|name| node(name)).collect();
        let periods: Vec<(&str, u64)> = peers
            .keys()
            .filter_map(|peer| Some((peer.as_str(), neighbours.period(peer, &voters)?.as_millis() as u64)))
            .collect();
        assert_eq!(periods, expected);
    }

    #[test]
    fn in_a_small_fleet_everybody_is_a_neighbour() {
        check("a-1", &[("a", 2), ("b", 1)], &[], &[("a-2", 200), ("b-1", 200)]);
    }

    #[test]
    fn in_a_large_fleet_a_node_hears_its_region_its_rank_and_voters_each_other() {
        let regions = [("a", 2), ("b", 8), ("c", 8)];
        check(
            "a-1",
            &regions,
            &["b-1", "c-2"],
            &[
                ("a-2", 200),
                ("b-1", 1000),
                ("b-3", 1000),
                ("b-5", 1000),
                ("b-7", 1000),
                ("c-1", 1000),
                ("c-3", 1000),
                ("c-5", 1000),
                ("c-7", 1000),
            ],
        );
        let of_b: Vec<String> = (1..=8).filter(|number| *number != 2).map(|number| format!("b-{number}")).collect();
        let own: Vec<(&str, u64)> = of_b.iter().map(|name| (name.as_str(), 200)).collect();
        check(
            "b-2",
            &regions,
            &["a-1", "b-2", "c-3"],
            &[&[("a-1", 200), ("a-2", 1000)], &own[..], &[("c-2", 1000), ("c-3", 200)]].concat(),
        );
    }
}
