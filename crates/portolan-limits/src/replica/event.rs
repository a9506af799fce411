//! What the state machine tells its driver, to be logged or exported.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::RegionId;

use super::partition::PartitionTally;
use crate::peers::Mode;

/// Something the shell may log or export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The limiter may admit: the first horizon is durable.
    Active,
    /// The nodes that share this region's limits have changed.
    Roster {
        /// The epoch.
        epoch: u64,
        /// Of 256 shards, those that this node owns from here on.
        owned: usize,
    },
    /// A region is not heard, or does not hear us.
    PeerStale {
        /// The region.
        region: RegionId,
    },
    /// A region is heard again.
    PeerHealing {
        /// The region.
        region: RegionId,
        /// How long it was not.
        silent: Duration,
    },
    /// A region has been heard for long enough.
    PeerFresh {
        /// The region.
        region: RegionId,
        /// How long it was not.
        silent: Duration,
    },
    /// The limits changed state.
    Mode {
        /// The state entered.
        mode: Mode,
    },
    /// A partition began, or took in another region.
    PartitionStart {
        /// The regions that are not heard.
        peers: Vec<RegionId>,
    },
    /// Every region is in reach again.
    PartitionHeal {
        /// The regions that were not heard at some time.
        peers: Vec<RegionId>,
        /// Since the first of them was not.
        lasted: Duration,
        /// What each limit did meanwhile.
        limits: Vec<PartitionTally>,
    },
    /// Another set of definitions, or another split of shares, is known.
    EpochChange {
        /// The limits whose generation or split changed.
        limits: Vec<LimitId>,
    },
    /// The lender of a limit can, or cannot, be counted on.
    Lender {
        /// The limit.
        limit: LimitId,
        /// Which of the two.
        reachable: bool,
    },
    /// A region's clock is further ahead of ours than is adopted; told once until it is sound again.
    ClockAhead {
        /// The region.
        region: RegionId,
        /// By how much.
        by: Duration,
    },
    /// Our own clock is far ahead of most others of the fleet and is not followed; told once until it is near them again.
    ClockLeapt {
        /// By how much.
        by: Duration,
    },
}
