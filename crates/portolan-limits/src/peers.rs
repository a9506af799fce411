//! Which regions are heard, and what follows for a limit.

use std::time::Duration;

use portolan_model::RegionId;
use serde::{Deserialize, Serialize};

/// State of a limit, by the regions of its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Mode {
    /// Every region is heard and hears us.
    Healthy = 0,
    /// Every region is heard again, some not for long enough.
    Healing = 1,
    /// Some region is not heard, or does not hear us.
    Degraded = 2,
}

/// State of another region as seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerState {
    /// Heard, and hears us.
    Fresh,
    /// Not heard, or does not hear us, for longer than the staleness bound.
    Stale,
    /// Heard again; fresh after 5 heartbeats over at least 2 s.
    Healing,
}

/// Another region as seen from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The region.
    pub region: RegionId,
    /// Its state.
    pub state: PeerState,
    /// Time since it was heard; since our start when it never was.
    pub heard: Duration,
    /// Time since it heard us, by its own account; since our start when it never gave one.
    pub hears_us: Duration,
}
