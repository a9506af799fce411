//! The state machine beside the limiter.

use std::{sync::Arc, time::Duration};

use portolan_config::{LimitId, OnPartition};
use portolan_model::{HashKey, Name, Now, RegionId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    definition::Definition,
    limiter::Limiter,
    marks::{MarkSequence, MarkWrite, Recovery},
    message::{Message, Rejected},
    peers::{Mode, PeerStatus},
};

/// What a region's limits are built from.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// This region.
    pub region: RegionId,
    /// The scope: all regions that share the limits, this one included. Fixed for the life of the cluster.
    pub regions: Vec<RegionId>,
    /// Secret of the cluster for hashing keys.
    pub hash_key: HashKey,
    /// Keys that have a counter of their own at one time; beyond it keys of a limit share one.
    pub capacity: usize,
    /// Longest round trip to a region of the scope.
    pub worst_rtt: Duration,
}

/// Digest of all regions' rows in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDigest {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Equal in two regions if and only if they hold the same rows (up to hash collisions).
    pub digest: u64,
}

/// One limit, for `status` and `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitUsage {
    /// The limit.
    pub limit: LimitId,
    /// Its name.
    pub name: Name,
    /// Its generation.
    pub generation: u32,
    /// The slot.
    pub slot: u64,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// This region's share.
    pub share: u64,
    /// Length of a slot.
    pub window: Duration,
    /// `static`, `open` or `closed`.
    pub on_partition: String,
    /// State of the limit.
    pub mode: Mode,
    /// Keys spent from in this slot, in any region.
    pub keys: u64,
    /// Spend of each region over all keys of the slot, in the order of the scope, as known here.
    pub spent: Vec<(RegionId, u64)>,
}

/// Something the shell may log or export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The limiter may admit.
    Active,
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
    },
    /// The limits changed state.
    Mode {
        /// The state entered.
        mode: Mode,
    },
    /// A region's clock is further ahead than is adopted.
    ClockAhead {
        /// The region.
        region: RegionId,
        /// By how much.
        by: Duration,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages taken in.
    pub messages: u64,
}

/// The state machine. One owner calls it; the [`Limiter`] is shared.
#[derive(Debug)]
pub struct Limits {
    limiter: Arc<Limiter>,
}

impl Limits {
    /// Starts from what is known of the process before.
    pub fn new(config: LimitsConfig, _recovery: Recovery, _now: Now) -> Self {
        Self { limiter: Arc::new(Limiter::new(config.hash_key)) }
    }

    /// The decision function for the definitions in force; another one after each
    /// [`handle_definitions`](Self::handle_definitions).
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    /// Takes over a new set of definitions; limits not in it end.
    pub fn handle_definitions(&mut self, _definitions: &[Definition], _now: Now) {}

    /// Takes in a message of another region.
    pub fn handle_message(&mut self, _from: &RegionId, _message: Message, _now: Now) -> Result<(), Rejected> {
        Ok(())
    }

    /// The write with this number and all before it are on disk.
    pub fn handle_durable(&mut self, _sequence: MarkSequence, _now: Now) {}

    /// Does what is due: call at [`poll_timeout`](Self::poll_timeout), and at once when a worker's
    /// [`Limiter::take_attention`] says so.
    pub fn handle_timeout(&mut self, _now: Now) {}

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(RegionId, Message)> {
        None
    }

    /// The next write to make durable. A failed write is tried again by the driver until it succeeds.
    pub fn poll_marks(&mut self) -> Option<MarkWrite> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        None
    }

    /// The other regions as seen from here.
    pub fn peers(&self, _now: Now) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// Digests of the live slots (current and previous) of every limit that has rows.
    pub fn slot_digests(&self, _now: Now) -> Vec<SlotDigest> {
        Vec::new()
    }

    /// Every limit with its use in the current slot.
    pub fn usage(&self, _now: Now) -> Vec<LimitUsage> {
        let _ = OnPartition::Static;
        Vec::new()
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
}
