//! What people and tests see of the limits: use, rights, digests, peers, counts. Changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{PoisonError, atomic::Ordering::SeqCst},
    time::Duration,
};

use portolan_config::LimitId;
use portolan_model::{Name, Now, RegionId};
use serde::{Deserialize, Serialize};

use super::{Limits, Stats};
use crate::{
    counter::Counter,
    key::Key,
    peers::{Mode, PeerStatus},
    rights::Rights,
};

/// Digest of all regions' rows in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotDigest {
    /// The limit.
    pub limit: LimitId,
    /// The slot.
    pub slot: u64,
    /// Over the keys that the node owns. Those of a region's nodes combined by exclusive or are equal in two regions if and
    /// only if these hold the same rows (up to hash collisions).
    pub digest: u64,
}

/// One limit, for `status` and `limits`.
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
    /// `static`, `open`, `closed` or `closed(minority)`.
    pub on_partition: String,
    /// State of the limit.
    pub mode: Mode,
    /// Keys spent from in this slot, here or by what other regions told, of those that this node owns in its region.
    pub keys: u64,
    /// Spend of each region over these keys: our own exactly, of the others what keys under pressure have. The sum over
    /// the nodes of a region is what the region knows.
    pub spent: Vec<(RegionId, u64)>,
    /// What was counted since the start.
    pub tally: Tally,
    /// The keys with the most use in the slot, at most [`TOP_KEYS`], the busiest first.
    pub busiest: Vec<KeyUsage>,
}

/// Counts of one limit over all its keys since the process started, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Lent to other regions.
    pub lent: u64,
    /// Borrowed from other regions.
    pub borrowed: u64,
    /// Rights were raised by so much beyond base and loans.
    pub overdraft: u64,
    /// Found consumed above the quota by all regions together, over all slots.
    pub overshoot: u64,
    /// The same of the last slot and key that had any.
    pub last_overshoot: u64,
    /// Admitted here of keys under pressure.
    pub admitted: u64,
    /// Refused here of keys under pressure.
    pub refused: u64,
    /// Of these, refused while all regions together had room, as far as known here: an estimate of false refusals.
    pub refused_below: u64,
}

/// One key of a limit in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    /// The counter: a hash of what the limit counts by.
    pub key: Key,
    /// The slot.
    pub slot: u64,
    /// What the path may use here in all: rights, cut by what is durable.
    pub allowed: u64,
    /// What is used here: consumed, and lent to others.
    pub used: u64,
    /// Each region, in the order of the scope.
    pub regions: Vec<RegionUsage>,
}

/// One region's part in one key and slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionUsage {
    /// The region.
    pub region: RegionId,
    /// Its base share.
    pub base: u64,
    /// Lent to other regions.
    pub lent: u64,
    /// Borrowed from other regions.
    pub borrowed: u64,
    /// What it may consume: base and borrowed, less lent.
    pub rights: u64,
    /// Consumed and not given back, as far as is known here.
    pub consumed: u64,
    /// Refused of it, as far as is known: by this region itself, where it has refused anything of late. What waits for a
    /// chunk or a mark counts, too. 0 of a limit of concurrency, of which only all keys together are counted.
    pub refused: u64,
    /// Units a second that it is asked for, as it told; 0 while the key is not under pressure there.
    pub demand: u64,
    /// Whether it has told anything of this slot: silent regions have used less than half of their share.
    pub told: bool,
}

/// Another region's view, for metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// The region.
    pub region: RegionId,
    /// Age of what is known of it.
    pub age: Duration,
    /// Messages with loans to it that it has not acknowledged.
    pub unacknowledged: usize,
}

/// Keys that a report of one limit lists.
pub const TOP_KEYS: usize = 10;

/// What one limit used here in a slot.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnUse {
    keys: u64,
    used: u64,
    /// The keys with the most use, with it.
    busiest: BTreeSet<(u64, Key)>,
}

impl OwnUse {
    fn note(&mut self, key: Key, amount: u64) {
        self.keys += 1;
        self.used = self.used.saturating_add(amount);
        self.busiest.insert((amount, key));
        if self.busiest.len() > TOP_KEYS {
            self.busiest.pop_first();
        }
    }
}

impl Limits {
    /// The other regions as seen from here.
    pub fn peers(&self, now: Now) -> Vec<PeerStatus> {
        let status = self.others().map(|at| {
            let (heard, hears_us) = self.peers.ages(at, now.mono);
            PeerStatus { region: self.regions[at].clone(), state: self.peers.state(at), heard, hears_us }
        });
        status.collect()
    }

    /// How old the view of each other region is, and how many loans to it are on their way.
    pub fn views(&self, now: Now) -> Vec<PeerView> {
        let view = |at: usize| PeerView {
            region: self.regions[at].clone(),
            age: self.peers.ages(at, now.mono).0,
            unacknowledged: self
                .unacknowledged
                .iter()
                .filter(|(to, _)| to.region == at)
                .map(|(_, sent)| sent.len())
                .sum(),
        };
        self.others().map(view).collect()
    }

    /// State of the limits.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Digests of the live slots (current and previous) of the keys that this node owns, where there are any. After
    /// convergence those of a region's nodes together are equal in all regions that agree on the time.
    pub fn slot_digests(&self, now: Now) -> Vec<SlotDigest> {
        let wall = self.shared.wall(now);
        let live = self.ledger.slots().into_iter().filter(|&(limit, slot)| {
            let current = self.limiter.rights(limit).map(|rights| rights.terms.slot(wall));
            current.is_some_and(|current| slot <= current && slot + 1 >= current)
        });
        let (ranking, me) = (self.siblings.ownership.ranking(), self.siblings.me());
        let own = |shard| ranking.owner(shard) == Some(me);
        let digests =
            live.map(|(limit, slot)| SlotDigest { limit, slot, digest: self.ledger.digest(limit, slot, own) });
        // Rows of keys that it owned once, or none but zeros.
        digests.filter(|slot| slot.digest != 0).collect()
    }

    /// The slot that each limit is in, by this node's clock.
    pub fn current_slots(&self, now: Now) -> Vec<(LimitId, u64)> {
        let wall = self.shared.wall(now);
        self.limiter.all_rights().iter().map(|rights| (rights.id, rights.terms.slot(wall))).collect()
    }

    /// Every limit with its use in the current slot, and its busiest keys. Costs a walk over the whole table, and over the keys
    /// that regions told of; a table of more than 300 000 keys is walked over once a second at most, so that what is used
    /// of it here may be a second old.
    pub fn overview(&self, now: Now) -> Vec<LimitUsage> {
        let mut own = self.own_use(now);
        let of = |rights: &Rights| self.usage_of(rights, own.remove(&rights.id).unwrap_or_default(), now);
        self.limiter.all_rights().iter().map(of).collect()
    }

    /// One key of a limit in the current slot; nothing for a limit that is not defined.
    pub fn explain(&self, limit: LimitId, key: Key, now: Now) -> Option<KeyUsage> {
        let rights = self.limiter.rights(limit)?;
        Some(self.key_usage(rights, key, rights.terms.slot(self.shared.wall(now))))
    }

    /// Units asked for here of a limit's keys under pressure since the start, admitted or not.
    pub fn asked(&self, limit: LimitId) -> u64 {
        self.books.get(&limit).map_or(0, |book| book.tally.admitted.saturating_add(book.tally.refused))
    }

    /// Counts since the start.
    pub fn stats(&self) -> Stats {
        let overflowed = self.shared.overflowed.load(SeqCst);
        let sum = |of: fn(&Tally) -> u64| self.books.values().map(|book| of(&book.tally)).sum();
        Stats {
            messages_dropped: self.outbox.dropped,
            overflowed,
            lent: sum(|tally| tally.lent),
            borrowed: sum(|tally| tally.borrowed),
            overdraft: sum(|tally| tally.overdraft),
            overshoot: sum(|tally| tally.overshoot),
            refused_below: sum(|tally| tally.refused_below),
            watched: self.watched.len() as u64,
            accounts: self.ledger.len() as u64,
            ..self.stats
        }
    }

    /// What is used here in each limit's current slot. Of a large table as it was up to a second ago.
    fn own_use(&self, now: Now) -> BTreeMap<LimitId, OwnUse> {
        if self.shared.table.len() < LARGE {
            return self.walk(now);
        }
        let mut walked = self.walked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = walked.take().filter(|(at, _)| now.mono.since(*at) < WALK_AGAIN);
        walked.insert(known.unwrap_or_else(|| (now.mono, self.walk(now)))).1.clone()
    }

    fn walk(&self, now: Now) -> BTreeMap<LimitId, OwnUse> {
        let wall = self.shared.wall(now);
        let mut used = BTreeMap::<LimitId, OwnUse>::new();
        let mut note = |rights: &Rights, key, counter: &Counter| {
            let amount = counter.used(rights.terms.slot(wall));
            if amount > 0 {
                used.entry(rights.id).or_default().note(key, amount);
            }
        };
        self.shared.table.for_each(|key, counter| {
            if !self.shared.owns(key) {
                // Its owner has granted what is used of it here, and counts it.
                return;
            }
            if let Some(rights) = self.limiter.rights(counter.limit()) {
                note(rights, key, counter);
            }
        });
        for rights in self.limiter.all_rights() {
            note(rights, Key::OVERFLOW, &rights.live.overflow);
        }
        used
    }

    fn usage_of(&self, rights: &Rights, mut own: OwnUse, now: Now) -> LimitUsage {
        let slot = rights.terms.slot(self.shared.wall(now));
        let regions = self.regions.len();
        let mut spent = vec![0; regions];
        spent[self.me] = own.used;
        for (key, account) in self.ledger.of_limit(rights.id) {
            let balances = account.balances(slot, regions);
            spent[self.me] -= balances[self.me].lent.min(spent[self.me]);
            let others = balances.iter().enumerate().filter(|&(at, _)| at != self.me);
            let elsewhere: u64 = others.map(|(at, balance)| add(&mut spent[at], balance.consumed)).sum();
            if elsewhere > 0 {
                let here = self.shared.table.with(key, |counter| counter.used(slot)).unwrap_or(0);
                own.keys += u64::from(here == 0);
                own.busiest.insert((here.saturating_add(elsewhere), key));
                // Twice, since a key may stand there with its own use alone, too.
                if own.busiest.len() > 2 * TOP_KEYS {
                    own.busiest.pop_first();
                }
            }
        }
        let mut busiest: Vec<Key> = own.busiest.into_iter().rev().map(|(_, key)| key).collect();
        let mut seen = BTreeSet::new();
        busiest.retain(|key| seen.insert(*key));
        busiest.truncate(TOP_KEYS);
        LimitUsage {
            limit: rights.id,
            name: rights.name.clone(),
            generation: rights.generation,
            slot,
            quota: rights.terms.quota,
            share: rights.terms.base(slot),
            window: rights.terms.window,
            on_partition: rights.on_partition.as_str().to_owned(),
            mode: self.mode_of(rights),
            keys: own.keys,
            spent: self.regions.iter().cloned().zip(spent).collect(),
            tally: self.books.get(&rights.id).map(|book| book.tally).unwrap_or_default(),
            busiest: busiest.into_iter().map(|key| self.key_usage(rights, key, slot)).collect(),
        }
    }

    fn key_usage(&self, rights: &Rights, key: Key, slot: u64) -> KeyUsage {
        let regions = self.regions.len();
        let account = self.ledger.account(rights.id, key);
        let balances = account.map(|account| account.balances(slot, regions)).unwrap_or_default();
        let shared = &self.shared;
        let here = self
            .shared
            .table
            .with(key, |counter| (rights.allowance(shared, counter, key, slot).amount, counter.used(slot)));
        let (allowed, used) = here.unwrap_or((rights.terms.base(slot), 0));
        let watch = self.watched.get(&(rights.id, key)).filter(|watch| watch.slot == slot);
        let refused = watch.map_or(0, |watch| watch.refused);
        let region = |(at, region): (usize, &RegionId)| {
            let balance = balances.get(at).copied().unwrap_or_default();
            let base = self.base(rights, slot, at);
            let own = at == self.me;
            let (lent, borrowed) = (balance.lent + balance.rate_lent, balance.borrowed + balance.rate_borrowed);
            RegionUsage {
                region: region.clone(),
                base,
                lent,
                borrowed,
                rights: (base + borrowed).saturating_sub(lent),
                consumed: if own { used.saturating_sub(balance.lent) } else { balance.consumed },
                refused: if own { refused } else { 0 },
                demand: balance.demand.rate.units() as u64,
                told: balance.told || own,
            }
        };
        KeyUsage { key, slot, allowed, used, regions: self.regions.iter().enumerate().map(region).collect() }
    }
}

/// Entries of a table that a report walks over anew each time: 25 MB, some milliseconds.
const LARGE: usize = 400_000;

/// How often a larger table is walked over at most, however many ask.
const WALK_AGAIN: Duration = Duration::from_secs(1);

/// Adds to a sum and hands the summand on.
fn add(sum: &mut u64, amount: u64) -> u64 {
    *sum = sum.saturating_add(amount);
    amount
}
