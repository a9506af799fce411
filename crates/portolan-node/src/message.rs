//! What one node says to another, Raft aside, and how it wants to travel.

use portolan_model::{NodeName, WallTime};
use serde::{Deserialize, Serialize};

use crate::LeaderSight;

/// Longest encoded message that travels as a datagram: what every path must carry (1200 bytes, RFC 9000 §14) less the
/// envelope and QUIC's own bytes.
pub const MAX_DATAGRAM: usize = 1150;

/// One message between nodes. A driver encodes it with `portolan_model::codec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// Membership and facts.
    Gossip(portolan_gossip::Message),
    /// Counters of limits.
    Limits(portolan_limits::Message),
    /// Sign of life, five times a second.
    Heartbeat(Heartbeat),
}

/// Sign of life, with what the election guard of others needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// When the sending process started, by its own clock.
    pub started: WallTime,
    /// Counts heartbeats of this life: an overtaken one is ignored.
    pub sequence: u64,
    /// The sender's clock.
    pub sent: WallTime,
    /// What the sender sees of the leader.
    pub leader: LeaderSight,
    /// The sender's term.
    pub term: u64,
}

/// How a message wants to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// May be lost and overtaken; no longer than [`MAX_DATAGRAM`] when encoded.
    Datagram,
    /// Must arrive while the connection lives; of any length up to the codec's bound.
    Stream,
}

/// A message to send.
#[derive(Clone, Debug, PartialEq)]
pub struct Transmit {
    /// Where to.
    pub to: NodeName,
    /// How.
    pub class: Class,
    /// What.
    pub message: Message,
}
