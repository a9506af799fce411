//! Who is alive and what each node says about itself, without a leader.
//!
//! Decides which nodes are members (SWIM, by foca) and which fact about a node is the newest (last writer wins, the
//! node itself being the only writer). Never carries counters, never opens a socket, never reads a clock: a driver
//! feeds [`Gossip`] with messages and time, and sends what it hands out.
//!
//! Sources: A. Das, I. Gupta, A. Motivala, "SWIM" (2002); the digest exchange follows R. van Renesse et al.,
//! "Efficient Reconciliation and Flow Control for Anti-Entropy Protocols" (2008), with a checksum per node in place of
//! gap-free versions.

mod facts;
mod gossip;
mod identity;
mod membership;
mod message;

pub use facts::{Digest, DigestEntry, Fact, FactKey, FactKeyError, FactUpdate, Facts};
pub use gossip::{Event, Gossip, GossipConfig, PublishError, Refused, Stats};
pub use message::Message;

/// Most nodes a cluster may have; facts about and membership of further ones are refused.
pub const MAX_NODES: usize = 2000;

/// Most bytes of a fact's key.
pub const MAX_KEY_LEN: usize = 64;

/// Most bytes of a fact's value.
pub const MAX_VALUE_LEN: usize = 1024;

/// Most facts one node may publish.
pub const MAX_KEYS_PER_NODE: usize = 16;
