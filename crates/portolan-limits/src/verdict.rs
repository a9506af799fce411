//! What the limiter answers, with everything a response has to tell the client.

use std::time::Duration;

use portolan_config::LimitId;
use portolan_model::{Name, WallTime};
use smallvec::SmallVec;

use crate::{key::Key, peers::Mode, table::Place};

/// Units asked of one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The limit.
    pub limit: LimitId,
    /// Its counter for this request.
    pub key: Key,
    /// Units the request costs.
    pub cost: u32,
}

/// The answer to a request's claims, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Every claim was charged; one charge per claim, in order.
    Allow(SmallVec<[Charge; 4]>),
    /// Some limit refuses; nothing was charged.
    Deny(Denial),
    /// Nothing was charged, and more may be admitted within moments: ask again when the state machine has moved, for at
    /// most so long.
    Wait(Wait),
}

/// What a request may wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// What is on its way.
    pub reason: WaitReason,
    /// How long to wait at most, since it was given first (see [`Patience`]).
    pub at_most: Duration,
    /// The answer when that has passed.
    pub otherwise: Denial,
}

/// Of a request that waits: which limit kept it, and in which slot it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
}

/// Until when a request waits that is answered [`Wait`] again and again: for each reason as long as that is worth, from the
/// first time that it was given. A loan that has come may still have to be marked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patience([Option<Duration>; WaitReason::ALL.len()]);

impl Patience {
    /// Takes in an answer that is given `waited` after the request was asked first, and says how long after that it is
    /// asked for the last time.
    pub fn until(&mut self, wait: &Wait, waited: Duration) -> Duration {
        *self.0[wait.reason as usize].get_or_insert(waited) + wait.at_most
    }
}

/// What may let a request pass soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// A durable mark is being written: wait 20 ms at most.
    Mark,
    /// The region's owner of the key is asked for a chunk: wait 5 ms at most.
    Owner,
    /// Another region may lend: wait as long as the limit's `borrow_wait`.
    Borrow,
}

impl Wait {
    /// What to ask again with.
    pub fn waited(&self) -> Waited {
        Waited { limit: self.otherwise.limit, slot: self.otherwise.slot }
    }

    /// The answer where a limit is not known, which can only be told by a view older or newer than the limiter: the
    /// request must not pass without it.
    pub fn unknown(limit: LimitId, name: Name) -> Self {
        let otherwise = Denial {
            limit,
            name,
            reason: DenyReason::Degraded,
            slot: 0,
            quota: 0,
            window: Duration::from_secs(1),
            remaining: 0,
            retry_after: Duration::from_secs(1),
            expose_slot: false,
        };
        Self { reason: WaitReason::Mark, at_most: MARK_WAIT, otherwise }
    }
}

impl WaitReason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mark, Self::Owner, Self::Borrow];

    /// Two bits for a packed word.
    pub(crate) const fn tag(reason: Option<Self>) -> u64 {
        match reason {
            None => 0,
            Some(Self::Mark) => 1,
            Some(Self::Owner) => 2,
            Some(Self::Borrow) => 3,
        }
    }

    pub(crate) const fn of_tag(tag: u64) -> Option<Self> {
        match tag {
            1 => Some(Self::Mark),
            2 => Some(Self::Owner),
            3 => Some(Self::Borrow),
            _ => None,
        }
    }
}

/// A disk that takes longer for a write is not one to wait for.
pub(crate) const MARK_WAIT: Duration = Duration::from_millis(20);

/// Five round trips within a region.
pub(crate) const OWNER_WAIT: Duration = Duration::from_millis(5);

/// Units charged to a limit: one cache line, since every decision writes one. What is the same for all charges of the
/// limit, and when its slot ends, the limiter that charged it says: [`Limiter::policy`](crate::Limiter::policy),
/// [`Limiter::resets_in`](crate::Limiter::resets_in).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit.
    pub limit: LimitId,
    /// Units that were charged.
    pub cost: u32,
    /// The slot that was charged: window number since the Unix epoch.
    pub slot: u64,
    /// What this region may still admit in the slot; of what this node was granted only, where another one owns the key.
    pub remaining: u64,
    /// The limit is in shadow and would have refused: nothing was charged, and the request passes.
    pub shadow_refused: bool,
    pub(crate) reuse: u8,
    pub(crate) charged_at: WallTime,
    pub(crate) receipt: Option<ChargeReceipt>,
}

/// What all charges of a limit and slot have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy<'a> {
    /// The limit's name.
    pub name: &'a Name,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// Length of the slot.
    pub window: Duration,
    /// Whether the answer may name the slot.
    pub expose_slot: bool,
}

/// Where units were charged, so that they can be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChargeReceipt {
    pub key: Key,
    pub time: u64,
    pub spot: Spot,
}

/// Which counter was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    Entry(Place),
    /// The counter that keys share when the table is full.
    Overflow,
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
    /// The key.
    pub key: Key,
    /// Its name.
    pub name: Name,
    /// The slot the request falls into.
    pub slot: u64,
    /// The quota of one slot over all regions.
    pub quota: u64,
    /// This region's share of it.
    pub share: u64,
    /// What is not to be spent again in the slot: spent, lent to other regions, granted to other nodes of this one.
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
    /// What the request would wait for before that is known, if it would wait.
    pub wait: Option<WaitReason>,
    /// A refusal would only be counted.
    pub shadow: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_one_cache_line() {
        assert!(size_of::<Charge>() <= 64, "{}", size_of::<Charge>());
    }
}
