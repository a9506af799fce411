//! What is told to the other regions, and when: own rows of keys under pressure, heartbeats, digests. Keeps to the byte
//! budget of a region: what does not fit is told later, keys that hurry first. Loans are told again until acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{NodeName, Now, Timestamp, WallTime};

use super::{Limits, Place};
use crate::{
    account::Row,
    acks::{Number, Unacknowledged},
    key::Key,
    message::{DIGEST_BUCKETS, Heartbeat, MAX_DIGESTS, Message, SlotSummary},
    outbox::{Destination, in_messages},
    peers::{GOSSIP_INTERVAL, PeerState},
    region::Shard,
    rights::Rights,
};

impl Limits {
    pub(super) fn send_heartbeats(&mut self, now: Now) {
        self.heartbeats += 1;
        let heard = self.peers.heard(self.me, now.mono);
        for region in self.others() {
            for to in self.listeners(region) {
                let from = match &to.node {
                    Some(_) => self.seen.get(&to),
                    // Where the node is not known it is the only one that was heard, and follows.
                    None => {
                        self.seen.range(&to..).next().filter(|(from, _)| from.region == region).map(|(_, seen)| seen)
                    }
                };
                let seen = from.copied().unwrap_or_default();
                let heartbeat = Heartbeat { scope: self.scope, sent: self.wall(), heard: heard.clone(), seen };
                self.owed.remove(&to);
                self.outbox.push(to, Message::Heartbeat(heartbeat));
            }
        }
    }

    /// Tells loans again that were not acknowledged in time: to whoever owns their keys by now.
    pub(super) fn repeat_loans(&mut self, now: Now) {
        let patience = self.worst_rtt * 2 + GOSSIP_INTERVAL * 2;
        let unheard = self.unacknowledged.iter().filter(|(_, sent)| sent.is_unheard(patience * 2, now.mono));
        self.unheard = unheard.map(|(to, _)| to.clone()).collect();
        let peers = &self.peers;
        // Those that are not heard are told after the heal.
        let heard = self.unacknowledged.iter_mut().filter(|(to, _)| peers.state(to.region) != PeerState::Stale);
        let lost: Vec<Place> = heard.flat_map(|(_, sent)| sent.take_overdue(patience, now.mono)).collect();
        self.stats.loans_repeated += lost.len() as u64;
        let live: Vec<Place> = lost.into_iter().filter(|place| self.is_live_place(place)).collect();
        self.untold.extend(live);
    }

    /// Sends the rows that are due.
    pub(super) fn send_rows(&mut self, now: Now) {
        let due = |place: &&Place| self.is_due(place, now.mono);
        let mut places: Vec<Place> = self.untold.iter().filter(due).copied().collect();
        // Hurried ones first, then from where the last round stopped: so that none starves.
        places.sort_by_cached_key(|place| (!self.hurry.contains(&(place.limit, place.key)), *place < self.sent_up_to));
        self.tell(&places, now);
        self.hurry.clear();
    }

    /// Sends the rows of the keys that cannot wait for the round.
    pub(super) fn send_hurried(&mut self, now: Now) {
        if !self.budget.is_ample(now.mono) {
            return;
        }
        let hurry = std::mem::take(&mut self.hurry);
        let hurried = |place: &&Place| hurry.contains(&(place.limit, place.key));
        let places: Vec<Place> = self.untold.iter().filter(hurried).copied().collect();
        self.tell(&places, now);
    }

    fn is_due(&self, place: &Place, now: Timestamp) -> bool {
        let key = (place.limit, place.key);
        let Some(watch) = self.watched.get(&key) else { return true };
        let interval = self.limiter.rights(place.limit).map_or(GOSSIP_INTERVAL, row_interval);
        let row = || self.ledger.row(place.limit, place.key, place.slot, self.me);
        let differs = || place.slot <= watch.slot && row().demand.differs(watch.told);
        now.since(watch.told_at) + ROUNDING >= interval || self.hurry.contains(&key) || differs()
    }

    /// Tells every region that is heard of these rows, as far as the budget goes.
    fn tell(&mut self, places: &[Place], now: Now) {
        let mut told: Vec<(Place, Row)> = Vec::new();
        let mut begun = BTreeSet::new();
        for &place in places {
            if !self.is_live_place(&place) {
                self.untold.remove(&place);
                continue;
            }
            let row = self.ledger.row(place.limit, place.key, place.slot, self.me);
            let head = if begun.insert((place.limit, place.slot)) { MESSAGE_COST } else { 0 };
            if !self.budget.take(row.encoded_len() + head, now.mono) {
                self.stats.rows_deferred += 1;
                self.sent_up_to = place;
                break;
            }
            self.untold.remove(&place);
            if let Some(watch) = self.watched.get_mut(&(place.limit, place.key)) {
                watch.told = if place.slot <= watch.slot { row.demand } else { watch.told };
                watch.told_at = now.mono;
            }
            told.push((place, row));
        }
        told.sort_by_key(|&(place, _)| place);
        self.stats.unsent_most = self.stats.unsent_most.max(self.untold.len() as u64);
        for same_slot in told.chunk_by(|(one, _), (other, _)| (one.limit, one.slot) == (other.limit, other.slot)) {
            let Place { limit, slot, .. } = same_slot[0].0;
            for region in self.others() {
                if self.peers.state(region) == PeerState::Stale {
                    // The digests after the heal find what it missed.
                    continue;
                }
                let ranking = self.siblings.rankings.get(&region);
                let mut by_owner = BTreeMap::<Option<&NodeName>, Vec<(Key, Row)>>::new();
                for (place, row) in same_slot {
                    let owner = ranking.and_then(|ranking| ranking.owner_of(place.key));
                    by_owner.entry(owner).or_default().push((place.key, row.clone()));
                }
                let to = |node: Option<&NodeName>| Destination { region, node: node.cloned() };
                let by_owner: Vec<_> = by_owner.into_iter().map(|(node, rows)| (to(node), rows)).collect();
                for (to, rows) in by_owner {
                    for rows in in_messages(self.scope, limit, slot, rows) {
                        let number = self.number(&to, &rows, now.mono);
                        self.send(to.clone(), Message::Rows(crate::message::Rows { number, ..rows }));
                    }
                }
            }
        }
    }

    /// Numbers a message that lends to its receiver, so that it is acknowledged.
    fn number(&mut self, to: &Destination, rows: &crate::message::Rows, now: Timestamp) -> Option<Number> {
        let lends = |(_, row): &&(Key, Row)| row.lent.iter().any(|&(_, region, _)| usize::from(region) == to.region);
        let (limit, slot) = (rows.limit, rows.slot);
        let loans: Vec<Place> = rows.rows.iter().filter(lends).map(|&(key, _)| Place { limit, slot, key }).collect();
        if loans.is_empty() {
            return None;
        }
        let life = self.siblings.life;
        let sent = self.unacknowledged.entry(to.clone()).or_insert_with(|| Unacknowledged::new(life));
        Some(sent.send(loans, now))
    }

    /// Queues a message and counts what it is.
    pub(super) fn send(&mut self, to: Destination, message: Message) {
        if let Message::Rows(rows) | Message::Echo(rows) = &message {
            self.stats.rows_sent += rows.rows.len() as u64;
            self.stats.row_bytes += rows.rows.iter().map(|(_, row)| row.encoded_len() as u64).sum::<u64>();
        }
        self.outbox.push(to, message);
    }

    pub(super) fn send_digests(&mut self) {
        let limiter = self.limiter();
        self.repair_turn += 1;
        let nodes: Vec<Destination> = self.others().flat_map(|region| self.counterparts(region)).collect();
        for to in nodes {
            let live = |rights: &Rights| {
                let current = rights.terms.slot(self.wall());
                [current.saturating_sub(1), current, current + 1].map(|slot| {
                    let buckets = self.ledger.digests(rights.id, slot, self.me, |shard| self.shares_shard(&to, shard));
                    let restarted = self.echo_rounds[to.region] > 0 && self.was_touched(rights.terms.begin(slot));
                    SlotSummary { limit: rights.id, slot, buckets, restarted }
                })
            };
            let used = |summary: &SlotSummary| summary.restarted || summary.buckets != [0; DIGEST_BUCKETS];
            let summaries: Vec<SlotSummary> = limiter.all_rights().iter().flat_map(live).filter(used).collect();
            for summaries in summaries.chunks(MAX_DIGESTS) {
                self.outbox.push(to.clone(), Message::Digests(summaries.to_vec()));
            }
        }
        for region in self.others() {
            // One that does not hear the question has not answered it.
            if self.peers.state(region) != PeerState::Stale {
                self.echo_rounds[region] = self.echo_rounds[region].saturating_sub(1);
            }
        }
    }

    /// Whether a shard is this node's here and the other node's in its region.
    pub(super) fn shares_shard(&self, other: &Destination, shard: Shard) -> bool {
        let theirs = match (self.siblings.rankings.get(&other.region), &other.node) {
            (Some(ranking), Some(node)) => ranking.owner(shard) == Some(node),
            _ => true,
        };
        theirs && self.siblings.ownership.ranking().owner(shard) == Some(self.siblings.me())
    }

    /// Whether slots that begin at `begin` may have been spent before this node's process, or before it owned their shard.
    pub(super) fn was_touched(&self, begin: WallTime) -> bool {
        self.shared.gates.all().any(|gate| !gate.is_foreign() && gate.barrier().reaches(begin))
    }

    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.regions.len()).filter(move |&region| region != me)
    }
}

/// How often a key under pressure is told about: a tenth of its window, for a longer one changes as much slower.
pub(super) fn row_interval(rights: &Rights) -> Duration {
    (rights.terms.window / 10).clamp(GOSSIP_INTERVAL, LONGEST_INTERVAL)
}

/// Bytes of a message beside its rows: its head, the packet that it may need, and the packet that acknowledges that one.
pub(super) const MESSAGE_COST: usize = 140;

/// However long the window, regions see each other's spend this soon.
const LONGEST_INTERVAL: Duration = Duration::from_secs(1);

/// Rounds do not fall on the nanosecond.
const ROUNDING: Duration = Duration::from_millis(10);
