//! What regions tell each other about counters. A region writes only its own row; values are absolute, so a message may
//! be lost, repeated or overtaken. Every message fits a datagram.

use portolan_config::LimitId;
use portolan_model::{HashKey, RegionId, WallTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    account::Row,
    acks::{Number, Seen},
    key::Key,
    packed,
    region::{Acknowledgement, Allotment, Answer, Ask, Grant, Hold, Lease, Question, Survey, Told, Update},
    sparse,
};

/// Rows in one message, at most; [`packed::MAX_BYTES`] is reached sooner unless they are tiny.
pub(crate) const MAX_ROWS: usize = 128;

/// Digests in one message: 7 of at most 154 bytes stay below 1150 bytes.
pub(crate) const MAX_DIGESTS: usize = 7;

/// Keys of a slot are spread over this many digests, so that a repair sends a sixteenth of the rows.
pub(crate) const DIGEST_BUCKETS: usize = 16;

/// One message from the region that sends it; which region that is, the transport knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Alive, even when no counter moves: silence must not look like absence.
    Heartbeat(Heartbeat),
    /// What the sender has consumed and lent.
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
    /// What the sender holds of the *receiver's* own rows, after the receiver restarted. Never used to admit or refuse:
    /// it only keeps the receiver from publishing less than it did before.
    Echo(Rows),
    /// Between nodes of one region.
    Neighbour(Neighbour),
}

/// What nodes of one region tell each other to share its limits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Neighbour {
    /// An owner tells its standby what it may spend.
    Update(Update),
    /// The standby has it.
    Acknowledgement(Acknowledgement),
    /// A new owner asks what was spent.
    Question(Question),
    /// What the answering node knows.
    Answer(Answer),
    /// A node asks owners for units.
    Asks {
        /// Tells the asker's processes apart.
        life: u64,
        /// At most [`MAX_ITEMS`].
        asks: Vec<Ask>,
    },
    /// An owner grants units.
    Grants {
        /// The asker's process.
        to: u64,
        /// The owner's process.
        by: u64,
        /// At most [`MAX_ITEMS`].
        grants: Vec<Grant>,
    },
    /// An owner asks what is in flight of its keys.
    Survey(Survey),
    /// What the answering node has in flight, or may have.
    Told(Told),
    /// A node tells owners what it has in flight, or may have, and asks for more.
    Holds {
        /// Tells the node's processes apart.
        life: u64,
        /// At most [`MAX_ITEMS`]; none: only that this process is the node's.
        holds: Vec<Hold>,
    },
    /// An owner lets more be in flight.
    Allotments {
        /// The holder's process.
        to: u64,
        /// The owner's process.
        by: u64,
        /// At most [`MAX_ITEMS`].
        allotments: Vec<Allotment>,
    },
    /// An owner says until when requests may begin of what it allotted.
    Lease(Lease),
}

impl Message {
    /// Whether it may be longer than a datagram.
    pub fn is_long(&self) -> bool {
        match self {
            Self::Neighbour(Neighbour::Update(update)) => update.marks.len() > SHORT_MARKS,
            Self::Neighbour(Neighbour::Answer(answer)) => {
                answer.legacy.marks.len() > SHORT_MARKS || answer.held.len() > SHORT_HELD
            }
            Self::Neighbour(Neighbour::Told(told)) => told.holds.len() > SHORT_HOLDS,
            _ => false,
        }
    }
}

/// Holds, of at most 50 bytes, that fit a datagram beside the question.
const SHORT_HOLDS: usize = 18;

/// Marks, of at most 44 bytes, and sets of shards, of at most 50, that fit a datagram together.
const SHORT_MARKS: usize = 12;
const SHORT_HELD: usize = 4;

/// Sent to every region every 100 ms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Of the sender; regions with different scopes do not listen to each other.
    pub scope: Scope,
    /// Sender's civil time, monotone within its process.
    pub sent: WallTime,
    /// Milliseconds since the sender heard each region of the scope, in the scope's order; 0 for itself. For one never heard
    /// since its own start, if nothing ran before, and the most there can be after a restart. Finds cuts that are deaf in
    /// one direction only.
    pub heard: Vec<u32>,
    /// Which numbered messages of the receiver have come.
    pub seen: Seen,
}

/// Names the regions that share limits: a hash over their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope(u32);

impl Scope {
    /// Of these regions, in order.
    pub fn of(hash_key: &HashKey, regions: &[RegionId]) -> Self {
        let names: Vec<&[u8]> = regions.iter().map(|region| region.as_str().as_bytes()).collect();
        Self(hash_key.hash(&names).0 as u32)
    }
}

/// One region's rows in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Of the sender: what is lent names regions by their position in it.
    pub scope: Scope,
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Numbers the message when it carries loans to the receiver, which acknowledges it.
    pub number: Option<Number>,
    /// At most [`MAX_ROWS`].
    #[serde(with = "packed")]
    pub rows: Vec<(Key, Row)>,
}

/// Digests of the sender's own rows in one slot, over the keys that the sender's and the receiver's node both own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSummary {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Digest per bucket of keys.
    #[serde(with = "sparse")]
    pub buckets: [u64; DIGEST_BUCKETS],
    /// The sender may have lost its rows of this slot when it or its node before ended: echo what you hold of them.
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
    #[error("a row has an impossible key, spend or loan")]
    ImpossibleRow,
    /// A row of this region that it cannot have lost: it did not restart in the slot.
    #[error("the row is not the sender's to write")]
    ForeignRow,
    /// Rows of a limit this node does not have (yet); digests repair them later.
    #[error("the limit is not known here")]
    UnknownLimit,
    /// Only nodes of the own region may send it.
    #[error("the sender is not another node of this region")]
    NotANeighbour,
}
