//! What follows when a region is no longer heard, or is again: the mode of every limit, and an account of the partition
//! when it has healed. No credit and no debt crosses slots.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::LimitId;
use portolan_model::{RegionId, Timestamp};

use super::{Event, Limits, Place};
use crate::{
    account::Account,
    counter::Allowance,
    definition::Kind,
    key::Key,
    message::DIGEST_BUCKETS,
    peers::{Change, Mode, PeerState},
    replica::report::Tally,
    rights::Rights,
};

/// What a limit did while regions could not hear each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTally {
    /// The limit.
    pub limit: LimitId,
    /// Its policy.
    pub policy: String,
    /// Units admitted here, of keys under pressure.
    pub admitted: u64,
    /// Units that all regions together consumed above the quota, over all keys and slots, as far as known by the heal.
    pub overshoot: u64,
    /// Units refused here.
    pub rejected: u64,
}

/// A partition under way.
#[derive(Debug)]
pub(crate) struct Partition {
    since: Timestamp,
    peers: Vec<usize>,
    before: BTreeMap<LimitId, Tally>,
}

impl Limits {
    pub(super) fn peer_changed(&mut self, Change { region, state, silent }: Change) {
        let name = self.regions[region].clone();
        self.events.push(match state {
            PeerState::Stale => Event::PeerStale { region: name },
            PeerState::Healing => Event::PeerHealing { region: name, silent },
            // No region comes to be unheard again.
            PeerState::Fresh | PeerState::Unheard => Event::PeerFresh { region: name, silent },
        });
        if state == PeerState::Healing {
            // Digests first: only what differs is sent, not every row.
            self.next_digest = self.last.mono;
        }
        if state == PeerState::Stale {
            self.note_partition(region);
        }
        self.set_minorities();
        let mode = self.peers.mode();
        if mode == self.mode {
            return;
        }
        self.mode = mode;
        self.events.push(Event::Mode { mode });
        if mode == Mode::Healthy {
            self.note_heal();
        }
        let limiter = self.limiter();
        for rights in limiter.all_rights() {
            self.enter_mode(rights);
        }
        self.siblings.flight.follow_shares();
    }

    /// The mode of one limit: that of the regions, or of its lender.
    pub(super) fn mode_of(&self, rights: &Rights) -> Mode {
        let lender_lost = self.books.get(&rights.id).is_some_and(|book| book.lent && !book.lender_reachable);
        if lender_lost { Mode::Degraded } else { self.mode }
    }

    pub(super) fn enter_mode(&mut self, rights: &Rights) {
        let mode = self.mode_of(rights);
        rights.live.set_mode(mode);
        let slot = rights.terms.slot(self.wall());
        let buckets = u16::MAX >> (16 - DIGEST_BUCKETS);
        let own: Vec<Key> = self.ledger.rows(rights.id, slot, self.me, buckets, |_| true).map(|(key, _)| key).collect();
        for key in own {
            if self.shares_view(rights) {
                self.untold.insert(Place { limit: rights.id, slot, key });
            }
            if mode != Mode::Degraded {
                self.close(rights, slot, key);
            }
        }
    }

    /// What was allowed beyond base, loans and overdraft was for while the limit was open.
    fn close(&mut self, rights: &Rights, slot: u64, key: Key) {
        if matches!(rights.terms.kind, Kind::Bucket(_)) {
            return;
        }
        let most = self.most(rights, key, slot);
        self.shared.table.with(key, |counter| {
            if let Some(published) = counter.rights(slot).filter(|published| published.amount > most) {
                counter.publish_rights(slot, Allowance { amount: most, pending: published.pending });
            }
        });
    }

    /// Tells each limit whether this side of the partition holds at most half of its shares.
    pub(super) fn set_minorities(&self) {
        // By what changes only with an event: a heartbeat that is late for a moment is asked about here once, and not again.
        let is_heard = |region: usize| region == self.me || self.peers.is_in_reach(region);
        for rights in self.limiter.all_rights() {
            let slot = rights.terms.slot(self.wall());
            let bases = self.books.get(&rights.id).map(|book| book.bases(slot)).unwrap_or_default();
            let reached: u64 = bases.iter().enumerate().filter(|&(at, _)| is_heard(at)).map(|(_, base)| base).sum();
            rights.live.set_minority(reached * 2 <= bases.iter().sum());
        }
    }

    fn note_partition(&mut self, region: usize) {
        let partition = self.partition.get_or_insert_with(|| Partition {
            since: self.last.mono,
            peers: Vec::new(),
            before: self.books.iter().map(|(&limit, book)| (limit, book.tally)).collect(),
        });
        if !partition.peers.contains(&region) {
            partition.peers.push(region);
            let peers: Vec<RegionId> = partition.peers.iter().map(|&at| self.regions[at].clone()).collect();
            self.events.push(Event::PartitionStart { peers });
        }
    }

    fn note_heal(&mut self) {
        let Some(partition) = self.partition.take() else { return };
        let limiter = self.limiter();
        let mut limits = Vec::new();
        for rights in limiter.all_rights() {
            let Some(book) = self.books.get(&rights.id) else { continue };
            let before = partition.before.get(&rights.id).copied().unwrap_or_default();
            let live = self.live_overshoot(rights);
            let tally = PartitionTally {
                limit: rights.id,
                policy: rights.on_partition.to_string(),
                admitted: book.tally.admitted - before.admitted,
                overshoot: (book.tally.overshoot - before.overshoot).saturating_add(live),
                rejected: book.tally.refused - before.refused,
            };
            limits.push(tally);
        }
        let peers = partition.peers.iter().map(|&at| self.regions[at].clone()).collect();
        let lasted: Duration = self.last.mono.since(partition.since);
        self.events.push(Event::PartitionHeal { peers, lasted, limits });
    }

    /// What the live slots of a limit are above its quota, over all keys.
    fn live_overshoot(&self, rights: &Rights) -> u64 {
        let over = |account: &Account| -> u64 {
            let slots = account.slots();
            let most = rights.terms.most_in_slot();
            slots.iter().map(|&slot| account.consumed(slot, None).saturating_sub(most)).sum()
        };
        self.ledger.of_limit(rights.id).take(MAX_TALLIED).map(|(_, account)| over(account)).sum()
    }
}

/// Keys that the overshoot at a heal is summed over; later ones are counted when their slot is dropped.
const MAX_TALLIED: usize = 100_000;
