//! The regions of a cluster, the round trips between them, and where networks of clients are.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use ipnet::IpNet;
use portolan_model::{Coordinates, Rate, RegionId};

use crate::{Faults, SourceFile, region_files};

/// Regions that a cluster may have: what a region lends to another is told with that one's number in seven bits.
pub const MAX_REGIONS: usize = 127;

/// Every region of the cluster. Fixed when the cluster is founded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionMap {
    regions: BTreeMap<RegionId, Region>,
    ids: Vec<RegionId>,
    rtts: BTreeMap<(RegionId, RegionId), Duration>,
    networks: Vec<(IpNet, Location)>,
}

/// One region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub id: RegionId,
    /// For people, for example `Dublin, Ireland`.
    pub title: String,
    /// Where it is.
    pub coordinates: Coordinates,
    /// Addresses that DNS gives to clients; never empty.
    pub addresses: Vec<IpAddr>,
    /// Requests it is built for; `None` means not stated.
    pub capacity: Option<Rate>,
}

/// Where the clients of a network are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At a place; the nearest region serves them.
    At(Coordinates),
    /// In the care of a region, wherever they are.
    In(RegionId),
}

impl RegionMap {
    /// Reads region files, the round trips between regions and the networks of clients.
    pub fn parse(files: &[SourceFile]) -> Result<Self, Faults> {
        region_files::parse(files)
    }

    pub(crate) fn insert(&mut self, region: Region) {
        self.regions.insert(region.id.clone(), region);
        self.ids = self.regions.keys().cloned().collect();
    }

    /// Returns whether the pair was known already.
    pub(crate) fn insert_rtt(&mut self, a: &RegionId, b: &RegionId, rtt: Duration) -> bool {
        self.rtts.insert(pair(a, b), rtt).is_some()
    }

    pub(crate) fn set_networks(&mut self, networks: BTreeMap<IpNet, Location>) {
        self.networks = networks.into_iter().collect();
        self.networks.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
    }

    /// All regions, sorted by name.
    pub fn ids(&self) -> &[RegionId] {
        &self.ids
    }

    /// One region.
    pub fn get(&self, id: &RegionId) -> Option<&Region> {
        self.regions.get(id)
    }

    /// All regions, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// Round trip between two regions; zero within one, and for a region that is not known.
    pub fn rtt(&self, a: &RegionId, b: &RegionId) -> Duration {
        self.rtts.get(&pair(a, b)).copied().unwrap_or(Duration::ZERO)
    }

    /// The longest round trip between any two regions.
    pub fn worst_rtt(&self) -> Duration {
        self.rtts.values().copied().max().unwrap_or(Duration::ZERO)
    }

    /// All regions by round trip from `from`, which comes first; equal ones by name.
    pub fn nearest_first(&self, from: &RegionId) -> Vec<RegionId> {
        let mut order = self.ids.clone();
        order.sort_by_key(|id| (id != from, self.rtt(from, id)));
        order
    }

    /// Networks of clients with their location, longest prefix first.
    pub fn networks(&self) -> &[(IpNet, Location)] {
        &self.networks
    }
}

/// One key for both directions.
fn pair(a: &RegionId, b: &RegionId) -> (RegionId, RegionId) {
    if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) }
}
