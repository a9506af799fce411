//! From a client network to the order in which regions are near it, with the number of address bits that decided.
//!
//! A binary tree per address family, so that the walk itself tells how specific the answer was, which RFC 7871 §7.2.1
//! wants echoed as the scope. Never guesses: a client outside every configured network has no location.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use portolan_config::{Location, RegionMap};
use portolan_model::RegionId;

/// Regions nearest first; shared by all networks that see them in the same order.
pub(crate) type OrderId = u32;

#[derive(Clone, Debug)]
pub(crate) struct Networks {
    v4: Tree,
    v6: Tree,
    orders: Vec<Box<[RegionId]>>,
}

/// What a lookup found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// The order of the most specific network around the client, if any.
    pub order: Option<OrderId>,
    /// All addresses with these leading bits in common get the same order.
    pub scope: u8,
}

impl Networks {
    pub(crate) fn compile(regions: &RegionMap) -> Self {
        let mut known: BTreeMap<Box<[RegionId]>, OrderId> = BTreeMap::new();
        let (mut v4, mut v6) = (Tree::default(), Tree::default());
        for (network, location) in regions.networks() {
            let next = known.len() as OrderId;
            let order = *known.entry(nearest_first(regions, location)).or_insert(next);
            match network {
                IpNet::V4(net) => v4.insert(left_aligned(IpAddr::V4(net.network())), net.prefix_len(), order),
                IpNet::V6(net) => v6.insert(left_aligned(IpAddr::V6(net.network())), net.prefix_len(), order),
            }
        }
        let mut orders: Vec<_> = known.into_iter().collect();
        orders.sort_by_key(|(_, id)| *id);
        Self { v4, v6, orders: orders.into_iter().map(|(order, _)| order).collect() }
    }

    /// Locates a client of whose address `prefix` bits are known. An IPv4 address inside IPv6 counts as IPv4.
    pub(crate) fn locate(&self, address: IpAddr, prefix: u8) -> Located {
        match address {
            IpAddr::V4(_) => self.v4.walk(left_aligned(address), prefix.min(32)),
            IpAddr::V6(v6) => match mapped(v6, prefix) {
                Some((v4, bits)) => {
                    let found = self.v4.walk(left_aligned(IpAddr::V4(v4)), bits);
                    Located { scope: found.scope + 96, ..found }
                }
                None => self.v6.walk(left_aligned(address), prefix.min(128)),
            },
        }
    }

    pub(crate) fn order(&self, id: OrderId) -> &[RegionId] {
        &self.orders[id as usize]
    }
}

fn mapped(address: std::net::Ipv6Addr, prefix: u8) -> Option<(Ipv4Addr, u8)> {
    let bits = prefix.min(128).checked_sub(96)?;
    address.to_ipv4_mapped().map(|v4| (v4, bits))
}

/// All regions, nearest to `location` first; equal distances in order of name.
fn nearest_first(regions: &RegionMap, location: &Location) -> Box<[RegionId]> {
    let here = match location {
        Location::In(region) => return regions.nearest_first(region).into(),
        Location::At(here) => *here,
    };
    let mut order: Vec<_> = regions.iter().collect();
    order.sort_by_key(|region| region.coordinates.distance_km(here));
    order.into_iter().map(|region| region.id.clone()).collect()
}

/// The address with its first bit in the highest place, so that both families walk alike.
fn left_aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A binary tree in one vector; node 0 is the root, child 0 means none.
#[derive(Clone, Debug)]
struct Tree(Vec<Node>);

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    children: [u32; 2],
    order: Option<OrderId>,
    /// Levels below: what a client would have to tell, beyond the bits that lead here, for the finest answer.
    height: u8,
}

impl Default for Tree {
    fn default() -> Self {
        Self(vec![Node::default()])
    }
}

impl Tree {
    fn insert(&mut self, bits: u128, len: u8, order: OrderId) {
        let mut node = 0;
        for depth in 0..len {
            self.0[node].height = self.0[node].height.max(len - depth);
            let side = bit(bits, depth);
            if self.0[node].children[side] == 0 {
                self.0[node].children[side] = self.0.len() as u32;
                self.0.push(Node::default());
            }
            node = self.0[node].children[side] as usize;
        }
        self.0[node].order = Some(order);
    }

    fn walk(&self, bits: u128, known: u8) -> Located {
        let (mut node, mut depth) = (self.0[0], 0);
        let mut found = node.order;
        while node.children != [0, 0] {
            // Finer networks lie below: at least one more bit decides, whether or not the client told it.
            if depth == known {
                return Located { order: found, scope: depth + node.height };
            }
            let child = node.children[bit(bits, depth)];
            depth += 1;
            if child == 0 {
                break;
            }
            node = self.0[child as usize];
            found = node.order.or(found);
        }
        Located { order: found, scope: depth }
    }
}

fn bit(bits: u128, depth: u8) -> usize {
    usize::from(bits >> (127 - depth) & 1 == 1)
}
