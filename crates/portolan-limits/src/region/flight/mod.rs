//! How the nodes of a region share what may be in flight at one time: a node tells the owner of a key what it holds, the
//! owner allots more, and what is not used for a second goes back. Where a key's share has become less than what is held of
//! it, the owner calls the rest back: every node keeps its part of the new share, and begins nothing beyond it.
//!
//! Unlike units of a window, units in flight outlive the process that granted them and never lapse with a slot. So both
//! sides speak of the present state instead of totals: the owner alone raises what a node holds, the node alone lowers it,
//! and gives the new state a number. What was allotted under an earlier number is not taken. So a recall is but a request to
//! lower: what is called back counts as held until the node says that it is not, and to lower is always safe, even by a
//! word that came late. What a node holds is told it again from time to time, so that whoever does not have it says so, too: a
//! question that comes late is answered with units that nobody waits for. An answer may be lost, and the node hold less than
//! the owner counts: it takes that when it is told again, unless there is a recall, which it answers with what it holds, as
//! a new state. A new owner asks every node
//! what it holds before anything may begin ([`survey`]), and a node that it cannot ask begins nothing after the horizon of
//! the last owner it heard.

pub(crate) mod given;
pub(crate) mod held;
pub(crate) mod survey;
#[cfg(test)]
mod tests;

use portolan_config::LimitId;
use portolan_model::WallTime;
use serde::{Deserialize, Serialize};

use crate::{key::Key, region::ShardSet, word::MAX_AMOUNT};

/// One key of a concurrency limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spot {
    /// The limit.
    pub limit: LimitId,
    /// The key.
    pub key: Key,
}

/// What a node may have in flight of a key, and what it would like to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Of what.
    pub spot: Spot,
    /// Grows with everything that goes back, and is never used for another state of the same process.
    pub number: u64,
    /// Units that are in flight or may be.
    pub units: u64,
    /// Units that wait for a decision.
    pub waiting: u64,
    /// Units wanted beyond those held; 0: none.
    pub need: u64,
}

/// The owner's answer to a [`Hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// Of what.
    pub spot: Spot,
    /// The state of the node that it adds to.
    pub number: u64,
    /// All that the node may have in flight.
    pub units: u64,
    /// What there is besides.
    pub beyond: Beyond,
}

/// What an owner has for a node beyond an [`Allotment`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Beyond {
    /// Nothing for a while.
    Nothing,
    /// Asking again may give more.
    More,
    /// More of the key is held than may be: what the node holds beyond the allotment is called back. If it holds no more than
    /// that, the owner is to hear how much it does.
    Recall,
}

/// An owner asks what a node holds in shards that it owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// The roster's epoch.
    pub epoch: u64,
    /// The owner's process.
    pub life: u64,
    /// The shards.
    pub shards: ShardSet,
    /// What comes after this; `None`: from the beginning.
    pub after: Option<Spot>,
}

/// What a node holds: binds it to the epoch, under which it takes units of these shards from the asking owner alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The question that is answered.
    pub survey: Survey,
    /// The answering process.
    pub life: u64,
    /// In order, at most [`MAX_TOLD`].
    pub holds: Vec<Hold>,
    /// Whether that is all.
    pub all: bool,
}

/// Until when a node may begin requests of what it holds in some shards: their owner's horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The roster's epoch.
    pub epoch: u64,
    /// The holder's process.
    pub to: u64,
    /// The owner's process.
    pub by: u64,
    /// The shards.
    pub shards: ShardSet,
    /// The instant.
    pub until: WallTime,
}

/// What a node that holds `units` of a key may keep, where `used` of all are, and `most` may be.
pub(crate) fn kept(units: u64, used: u64, most: u64) -> u64 {
    if used <= most { units } else { (u128::from(units) * u128::from(most) / u128::from(used)) as u64 }
}

impl Hold {
    /// Whether a node can have this: no more than a counter counts.
    pub(crate) const fn is_possible(&self) -> bool {
        self.units <= MAX_AMOUNT && self.waiting <= MAX_AMOUNT && self.need <= MAX_AMOUNT
    }
}

impl Allotment {
    /// Whether an owner can allot this.
    pub(crate) const fn is_possible(&self) -> bool {
        self.units <= MAX_AMOUNT
    }
}

/// Holds or allotments in one message: 20 of at most 50 bytes fit a datagram.
pub(crate) const MAX_ITEMS: usize = 20;

/// Holds in one answer to a survey; 200 kB when encoded.
pub(crate) const MAX_TOLD: usize = 4096;
