//! What the limiter answers, with everything a response has to tell the client.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::Name;
use smallvec::SmallVec;

use crate::{key::Key, peers::Mode};

/// One unit asked of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The limit.
    pub limit: LimitId,
    /// Its counter for this request.
    pub key: Key,
}

/// The answer to a request's claims, all or nothing.
#[expect(clippy::large_enum_variant, reason = "the common answer must not allocate")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Every claim was charged; one charge per claim, in order.
    Allow(SmallVec<[Charge; 4]>),
    /// Some limit refuses; nothing was charged.
    Deny(Denial),
    /// A durable mark is being written; nothing was charged. Ask again when the driver has told the state machine that
    /// it is on disk, for at most 20 ms, then answer 503.
    Wait,
}

/// A unit charged to a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit.
    pub limit: LimitId,
    /// Its name.
    pub name: Name,
    /// The slot that was charged: window number since the Unix epoch.
    pub slot: u64,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// Length of a slot.
    pub window: Duration,
    /// What this region may still admit in the slot.
    pub remaining: u64,
    /// Until the next slot.
    pub resets_in: Duration,
    /// Whether the answer may name the slot.
    pub expose_slot: bool,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The limit that refused first.
    pub limit: LimitId,
    /// Its name.
    pub name: Name,
    /// Why; decides between 429 and 503.
    pub reason: DenyReason,
    /// The slot the request fell into.
    pub slot: u64,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// Length of a slot.
    pub window: Duration,
    /// What this region may still admit in the slot; 0 unless the policy refuses everything.
    pub remaining: u64,
    /// When asking again can succeed. No jitter is added.
    pub retry_after: Duration,
    /// Whether the answer may name the slot.
    pub expose_slot: bool,
}

/// Why a limit refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DenyReason {
    /// The limit is in force: 429.
    Exhausted,
    /// The limit may not be reached, but our own state allows no more: a region is not heard and the own share is empty,
    /// or a restart does not know what was spent: 503.
    Degraded,
    /// The limit is `closed` and a region is not heard: 503.
    Closed,
}

/// The values a claim would be decided with; nothing is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The limit.
    pub limit: LimitId,
    /// Its name.
    pub name: Name,
    /// The slot the request falls into.
    pub slot: u64,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// This region's share of it.
    pub share: u64,
    /// What this region has spent in the slot.
    pub spent: u64,
    /// What the other regions were last known to have spent in the slot.
    pub others: u64,
    /// What this region may still admit in the slot.
    pub remaining: u64,
    /// State of the limit.
    pub mode: Mode,
    /// Until the next slot.
    pub resets_in: Duration,
    /// Why the claim would be refused, if it would.
    pub refusal: Option<DenyReason>,
}
