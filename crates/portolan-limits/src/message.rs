//! What regions tell each other about counters. A region writes only its own row; values are absolute, so a message may
//! be lost, repeated or overtaken. Every message fits a datagram.

use portolan_config::LimitId;
use portolan_model::WallTime;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::Key;

/// Rows in one message: 56 rows of at most 18 bytes and the head stay below 1150 bytes.
pub(crate) const MAX_ROWS: usize = 56;

/// Digests in one message: 7 of at most 154 bytes stay below 1150 bytes.
pub(crate) const MAX_DIGESTS: usize = 7;

/// Keys of a slot are spread over this many digests, so that a repair sends a sixteenth of the rows.
pub(crate) const DIGEST_BUCKETS: usize = 16;

/// One message from the region that sends it; which region that is, the transport knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Alive, even when no counter moves: silence must not look like absence.
    Heartbeat(Heartbeat),
    /// What the sender has spent.
    Rows(Rows),
    /// Digests of the sender's own rows, so that the receiver can find what it missed.
    Digests(Vec<SlotSummary>),
    /// The receiver's rows differ in these buckets of a slot: send them.
    Ask {
        /// The limit.
        limit: LimitId,
        /// The slot.
        slot: u64,
        /// Bit per bucket.
        buckets: u16,
    },
    /// What the sender holds of the *receiver's* own row, after the receiver restarted. Never used to admit or refuse:
    /// it only keeps the receiver from publishing less than it did before.
    Echo(Rows),
}

/// Sent to every region every 100 ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Hash of the scope; regions with different scopes do not listen to each other.
    pub scope: u64,
    /// Sender's civil time, monotone within its process.
    pub sent: WallTime,
    /// Milliseconds since the sender heard each region of the scope, in the scope's order; since its own start for one
    /// never heard, 0 for itself. Finds cuts that are deaf in one direction only.
    pub heard: Vec<u32>,
}

/// Absolute spend of one region per key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Key and spend, at most [`MAX_ROWS`].
    pub rows: Vec<(Key, u64)>,
}

/// Digests of the sender's own rows in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSummary {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Digest per bucket of keys.
    pub buckets: [u64; DIGEST_BUCKETS],
    /// The sender restarted within or after this slot's begin: echo what you hold of its rows.
    pub restarted: bool,
}

/// Why a message was not taken in. Nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// The sender is not a region of the scope, or is this region.
    #[error("the sender is not another region of this scope")]
    UnknownSender,
    /// The sender counts over other regions than we do.
    #[error("the sender's regions are not ours")]
    ForeignScope,
    /// A list is longer than any correct sender makes it.
    #[error("the message has more entries than a message may have")]
    TooLong,
    /// Rows of a slot that is over, or has not begun anywhere with a sound clock.
    #[error("the slot is not live")]
    DeadSlot,
    /// A value no correct region can send.
    #[error("a row has an impossible key or spend")]
    ImpossibleRow,
    /// A row of this region that it cannot have lost: it did not restart in the slot.
    #[error("the row is not the sender's to write")]
    ForeignRow,
    /// Rows of a limit this node does not have (yet); digests repair them later.
    #[error("the limit is not known here")]
    UnknownLimit,
}
