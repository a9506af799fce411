//! How the nodes of a region spend from an owner's rights: a node asks, the owner grants a chunk that counts as consumed
//! at once, and what is not spent goes back before the slot ends.
//!
//! Every amount is a total per slot and process, so a message may be lost, repeated or overtaken: the owner grants again
//! only to who knows what it was granted before, and takes back only what was granted by this process of it. What is
//! lost with a process on either side is never spent, which wastes it and cannot exceed the limit.

pub(crate) mod grants;
pub(crate) mod held;
pub(crate) mod requests;
#[cfg(test)]
mod tests;
mod usage;

use portolan_config::LimitId;
use serde::{Deserialize, Serialize};

use crate::key::Key;

/// One key in one slot; slot 0 of limits that know no slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// The limit.
    pub limit: LimitId,
    /// The key.
    pub key: Key,
    /// The slot.
    pub slot: u64,
}

/// A node asks the owner of a key for units, or hands some back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Of what.
    pub cell: Cell,
    /// The process of the owner that the totals are of; 0: none is known yet.
    pub granted_by: u64,
    /// Total granted by that process, as far as the asker knows.
    pub granted: u64,
    /// Total handed back to that process.
    pub returned: u64,
    /// Of a bucket: units of those granted that are spent for certain, up to the latest settlement; else 0.
    pub spent: u64,
    /// Units that wait for a decision.
    pub waiting: u64,
    /// Units that would last for a moment, those that wait included.
    pub need: u64,
    /// Units that would last for longer, for an owner that has plenty. This and `need` 0: to hand back only.
    pub wish: u64,
    /// No answer is waited for.
    pub silent: bool,
}

impl Ask {
    /// Whether it is for more than to hand back.
    pub(crate) fn asks(&self) -> bool {
        self.need > 0 || self.wish > 0
    }
}

/// The owner's answer to an [`Ask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Of what.
    pub cell: Cell,
    /// Total granted to the asker by this process of the owner.
    pub granted: u64,
    /// Total taken back.
    pub returned: u64,
    /// Asking again may give more.
    pub more: bool,
    /// The key is far from its limit: what is not used may be kept for a while.
    pub plenty: bool,
}

/// Asks or grants in one message: 18 of at most 62 bytes fit a datagram.
pub(crate) const MAX_ITEMS: usize = 18;
