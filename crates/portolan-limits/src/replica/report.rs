//! What people and tests see of the limits: use, digests, peers, counts. Changes nothing.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use portolan_config::LimitId;
use portolan_model::{Name, Now, RegionId};
use serde::{Deserialize, Serialize};

use super::{Limits, Stats};
use crate::peers::{Mode, PeerStatus};

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
    /// The quota of one slot over all regions, per key.
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
    /// Spend of each region over all keys of the slot, as known here.
    pub spent: Vec<(RegionId, u64)>,
}

impl Limits {
    /// The other regions as seen from here.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let others = self.regions.iter().enumerate().filter(|&(at, _)| at != self.me);
        let status = others.map(|(at, region)| {
            let (heard, hears_us) = self.peers.ages(at, now.mono);
            PeerStatus { region: region.clone(), state: self.peers.state(at), heard, hears_us }
        });
        status.collect()
    }

    /// State of the limits.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Digests of the live slots (current and previous) that any region spent from. After convergence equal in all
    /// regions that agree on the time.
    pub fn slot_digests(&self, now: Now) -> Vec<SlotDigest> {
        let wall = self.shared.wall(now);
        let live = self.ledger.slots().filter(|&(limit, slot)| {
            let current = self.limiter.rights(limit).map(|rights| rights.terms.slot(wall));
            current.is_some_and(|current| slot <= current && slot + 1 >= current)
        });
        live.map(|(limit, slot)| SlotDigest { limit, slot, digest: self.ledger.digest(limit, slot) }).collect()
    }

    /// Every limit with its use in the current slot.
    pub fn usage(&self, now: Now) -> Vec<LimitUsage> {
        let wall = self.shared.wall(now);
        let usage = self.limiter.all_rights().iter().map(|rights| {
            let slot = rights.terms.slot(wall);
            let (keys, spent) = self.ledger.totals(rights.id, slot);
            LimitUsage {
                limit: rights.id,
                name: rights.name.clone(),
                generation: rights.generation,
                slot,
                quota: rights.terms.quota,
                share: rights.terms.base(slot),
                window: rights.terms.window,
                on_partition: rights.on_partition.as_str().to_owned(),
                mode: self.mode,
                keys,
                spent: self.regions.iter().cloned().zip(spent).collect(),
            }
        });
        usage.collect()
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        let overflowed = self.shared.overflowed.load(SeqCst);
        Stats { messages_dropped: self.outbox.dropped, overflowed, ..self.stats }
    }
}
