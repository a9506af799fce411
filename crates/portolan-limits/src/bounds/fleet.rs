//! The fleet as the bounds see it: how many regions, how far apart, and how soon they hear of each other.

use std::time::Duration;

use portolan_config::RegionMap;

use crate::{horizon::CLOCK_TOLERANCE, peers};

/// What of a fleet decides the worst case of its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Regions that share every limit; at least 1.
    pub regions: usize,
    /// Nodes of the largest region.
    pub nodes: u32,
    /// The longest round trip between two regions.
    pub worst_rtt: Duration,
    /// How often regions tell each other what they spent.
    pub gossip: Duration,
    /// After how long without a word a region counts as unheard.
    pub staleness: Duration,
    /// How far clocks may differ.
    pub clock_tolerance: Duration,
}

impl Fleet {
    /// A fleet of the regions of `map`, with the intervals that the ledger keeps.
    pub fn of(map: &RegionMap, nodes: u32) -> Self {
        Self::new(map.ids().len(), map.worst_rtt(), nodes)
    }

    /// A fleet with the intervals that the ledger keeps.
    pub fn new(regions: usize, worst_rtt: Duration, nodes: u32) -> Self {
        Self {
            regions: regions.max(1),
            nodes: nodes.max(1),
            worst_rtt,
            gossip: peers::GOSSIP_INTERVAL,
            staleness: peers::stale_after(worst_rtt),
            clock_tolerance: CLOCK_TOLERANCE,
        }
    }

    /// How long a region may lack a loan that another could give: a round until its need is told, the way there and
    /// back, and a round until the lender decides.
    pub fn until_lent(&self) -> Duration {
        self.worst_rtt + 2 * self.gossip
    }
}
