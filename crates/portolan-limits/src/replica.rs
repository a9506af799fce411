//! The state machine beside the limiter: it reads what workers have charged, exchanges rows with the other regions,
//! watches which of them are heard, and asks for durable marks. Never decides an admission and never blocks one.

mod exchange;
mod marking;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use portolan_config::{LimitId, OnPartition};
use portolan_model::{HashKey, Now, RegionId, Timestamp, WallTime};
pub use report::{LimitUsage, SlotDigest};

use crate::{
    calendar::Calendars,
    counter::{Allowance, Counter},
    definition::{Definition, Terms},
    durability::Durability,
    horizon::{Barrier, CLOCK_TOLERANCE},
    key::Key,
    leaf::Leaf,
    ledger::{Joined, Ledger},
    limiter::Limiter,
    marks::{Mark, MarkWrite, Recovery},
    message::Message,
    outbox::{Events, Outbox},
    peers::{Change, GOSSIP_INTERVAL, Mode, PeerState, Peers},
    rights::{Live, Rights},
    shared::Shared,
    table::Moved,
    word::Word,
};

/// What a region's limits are built from.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// This region.
    pub region: RegionId,
    /// The scope: all regions that share the limits, this one included (it is added if it is missing), in any order.
    /// Fixed for the life of the cluster; up to 200 keep a heartbeat within a datagram.
    pub regions: Vec<RegionId>,
    /// Secret of the cluster for hashing keys.
    pub hash_key: HashKey,
    /// Keys that have a counter of their own at one time; beyond it keys of a limit share one. 64 bytes each.
    pub capacity: usize,
    /// Longest round trip to a region of the scope; lengthens the silence that counts as staleness.
    pub worst_rtt: Duration,
}

/// Something the shell may log or export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The limiter may admit: the first horizon is durable.
    Active,
    /// A region is not heard, or does not hear us.
    PeerStale {
        /// The region.
        region: RegionId,
    },
    /// A region is heard again.
    PeerHealing {
        /// The region.
        region: RegionId,
        /// How long it was not.
        silent: Duration,
    },
    /// A region has been heard for long enough.
    PeerFresh {
        /// The region.
        region: RegionId,
        /// How long it was not.
        silent: Duration,
    },
    /// The limits changed state.
    Mode {
        /// The state entered.
        mode: Mode,
    },
    /// A region's clock is further ahead of ours than is adopted; told once until it is sound again.
    ClockAhead {
        /// The region.
        region: RegionId,
        /// By how much.
        by: Duration,
    },
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages taken in.
    pub messages: u64,
    /// Messages refused.
    pub rejected: u64,
    /// Rows of other regions that raised a cell.
    pub rows_raised: u64,
    /// Rows that found no room.
    pub rows_full: u64,
    /// Digests that differed from ours.
    pub digest_mismatches: u64,
    /// Messages dropped because too many were waiting.
    pub messages_dropped: u64,
    /// Charges to a counter shared by keys for lack of room.
    pub overflowed: u64,
    /// Times a region's clock was found too far ahead.
    pub clocks_ahead: u64,
    /// Durable writes asked for.
    pub mark_writes: u64,
}

/// The state machine. One owner calls it; the [`Limiter`] is shared.
///
/// The driver feeds `handle_*`, then drains `poll_transmit`, `poll_marks` and `poll_event`, and calls
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Limits {
    /// The scope in order, and our position in it.
    regions: Vec<RegionId>,
    me: usize,
    scope: u64,
    limiter: Arc<Limiter>,
    shared: Arc<Shared>,
    calendars: Calendars,
    ledger: Ledger,
    peers: Peers,
    durability: Durability,
    /// Marks of the process before, until their limit is defined.
    recovered: BTreeMap<LimitId, Vec<Mark>>,
    /// Highest mark asked for, with the end of its slot.
    marked: BTreeMap<(LimitId, Key, u64), (u64, WallTime)>,
    /// Own rows that regions should hear of soon.
    unsent: BTreeSet<(LimitId, u64, Key)>,
    sent_up_to: (LimitId, u64, Key),
    mode: Mode,
    fenced: bool,
    clock_ahead: Vec<bool>,
    last: Now,
    last_tick: Timestamp,
    next_tick: Timestamp,
    next_digest: Timestamp,
    repair_turn: usize,
    swept_up_to: usize,
    outbox: Outbox,
    events: Events<Event>,
    stats: Stats,
}

impl Limits {
    /// Starts from what is known of the process before. Nothing is admitted until the first write of
    /// [`poll_marks`](Self::poll_marks) is reported durable.
    pub fn new(config: LimitsConfig, recovery: Recovery, now: Now) -> Self {
        let mut regions = config.regions;
        regions.push(config.region.clone());
        regions.sort();
        regions.dedup();
        let me = regions.binary_search(&config.region).expect("the scope holds this region: it was just added");
        let names: Vec<&[u8]> = regions.iter().map(|region| region.as_str().as_bytes()).collect();
        let barrier = Barrier::new(&recovery, now);
        let shared = Arc::new(Shared::new(config.hash_key, config.capacity, barrier, now));
        let mut recovered = BTreeMap::<LimitId, Vec<Mark>>::new();
        if let Recovery::Marks(marks) = recovery {
            marks.marks.into_iter().for_each(|mark| recovered.entry(mark.limit).or_default().push(mark));
        }
        Self {
            me,
            scope: config.hash_key.hash(&names).0 as u64,
            limiter: Arc::new(Limiter::new(Box::default(), Arc::clone(&shared))),
            calendars: Calendars::default(),
            // A region's table can hold that many rows in each of the slots that may be live.
            ledger: Ledger::new(config.hash_key, regions.len(), 3 * shared.table.len()),
            peers: Peers::new(regions.len(), config.worst_rtt, now.mono),
            durability: Durability::new(barrier.closed()),
            recovered,
            marked: BTreeMap::new(),
            unsent: BTreeSet::new(),
            sent_up_to: (LimitId(0), 0, Key::EVERY),
            mode: Mode::Healthy,
            fenced: false,
            clock_ahead: vec![false; regions.len()],
            last: now,
            last_tick: now.mono,
            next_tick: now.mono,
            next_digest: now.mono,
            repair_turn: 0,
            swept_up_to: 0,
            outbox: Outbox::default(),
            events: Events::new(),
            stats: Stats::default(),
            shared,
            regions,
        }
    }

    /// The decision function for the definitions in force; another one after each
    /// [`handle_definitions`](Self::handle_definitions). Older ones go on counting into the same counters.
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    /// Stops spending for good: another process has taken over this region's shares. No limiter of this state machine,
    /// old ones included, admits or is active from here on; a request that is being charged meanwhile may still pass.
    pub fn fence(&mut self) {
        self.fenced = true;
        self.shared.withdraw_horizon();
    }

    /// Takes over a new set of definitions; limits not in it end.
    pub fn handle_definitions(&mut self, definitions: &[Definition], now: Now) {
        self.observe_clock(now);
        let by_id: BTreeMap<LimitId, &Definition> =
            definitions.iter().map(|definition| (definition.id, definition)).collect();
        let all = by_id.into_values().map(|definition| self.define(definition)).collect();
        self.calendars.retain_used();
        let before = std::mem::replace(&mut self.limiter, Arc::new(Limiter::new(all, Arc::clone(&self.shared))));
        let limiter = self.limiter();
        for rights in limiter.all_rights() {
            match before.rights(rights.id) {
                Some(old) => self.keep_allowance(old, rights),
                None => self.restore_marks(rights),
            }
        }
        self.ledger.retain(|limit, _| limiter.rights(limit).is_some());
        self.marked.retain(|&(limit, ..), _| limiter.rights(limit).is_some());
    }

    /// Does what is due: call at [`poll_timeout`](Self::poll_timeout), and at once when a worker's
    /// [`Limiter::take_attention`] says so.
    pub fn handle_timeout(&mut self, now: Now) {
        self.observe_clock(now);
        self.read_counters();
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + GOSSIP_INTERVAL;
            self.tick(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        Some(self.next_tick)
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(RegionId, Message)> {
        let (region, message) = self.outbox.pop()?;
        Some((self.regions[region].clone(), message))
    }

    /// The next write to make durable. A failed write is tried again by the driver until it succeeds; meanwhile no
    /// other is handed out.
    pub fn poll_marks(&mut self) -> Option<MarkWrite> {
        let write = self.durability.poll(self.wall())?;
        self.stats.mark_writes += 1;
        Some(write)
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn define(&mut self, definition: &Definition) -> Rights {
        let terms = Terms::new(definition, self.me, self.regions.len(), &mut self.calendars);
        let live = self.limiter.rights(definition.id).map(|before| Arc::clone(&before.live));
        let live = live.unwrap_or_else(|| Arc::new(Live::new(self.mode)));
        Rights::new(definition, terms, &self.shared.barrier, live)
    }

    /// Reads every counter that workers moved.
    fn read_counters(&mut self) {
        let limiter = self.limiter();
        let wall = self.wall();
        let mut moved = Vec::new();
        let mut note = |rights, key, words: [Word; 2], counter: &Counter| {
            let rights: &Rights = rights;
            let current = rights.terms.slot(wall);
            for (parity, word) in words.into_iter().enumerate() {
                let slot = word.slot_near(if current & 1 == parity as u64 { current } else { current + 1 });
                if word.amount() > 0 && !word.is_changing_key() {
                    let allowance = rights.allowance(&self.shared, counter, key, slot);
                    moved.push((rights, key, slot, word.amount(), allowance, counter.others(slot)));
                }
            }
        };
        self.shared.table.drain_moved(|Moved { key, limit, words, .. }, counter| {
            counter.take_refused();
            if let Some(rights) = limiter.rights(limit) {
                note(rights, key, words, counter);
            }
        });
        for rights in limiter.all_rights() {
            if rights.live.take_overflow_moved() {
                note(rights, Key::OVERFLOW, rights.live.overflow.words(), &rights.live.overflow);
            }
        }
        for (rights, key, slot, used, allowance, others) in moved {
            self.join_own(rights, key, slot, used);
            self.consider_mark(rights, key, slot, used, allowance);
            if self.ledger.others(rights.id, slot, self.me, key) > others {
                self.publish_others(rights, slot, key);
            }
        }
    }

    /// Takes a counter's own spend into the ledger. Units given back later stay in the row: a cell never falls.
    fn join_own(&mut self, rights: &Rights, key: Key, slot: u64, used: u64) {
        if !self.is_live(rights, slot) {
            return;
        }
        match self.ledger.join(rights.id, slot, self.me, key, used) {
            Joined::Raised => {
                let pressed = used.saturating_mul(2) >= rights.terms.base(slot);
                if pressed || self.shares_view(rights) {
                    self.unsent.insert((rights.id, slot, key));
                }
            }
            Joined::Known => {}
            Joined::Full => self.stats.rows_full += 1,
        }
    }

    /// Whether admissions depend on the merged view: then every row matters, not only those under pressure.
    fn shares_view(&self, rights: &Rights) -> bool {
        matches!(rights.on_partition, OnPartition::Open { .. }) && self.mode != Mode::Healthy
    }

    fn publish_others(&self, rights: &Rights, slot: u64, key: Key) {
        let others = self.ledger.others(rights.id, slot, self.me, key);
        self.with_counter(rights, key, |counter| counter.publish_others(slot, others));
    }

    /// The counter of a key, if it has one, while it cannot become another key's.
    fn with_counter<R>(&self, rights: &Rights, key: Key, then: impl FnOnce(&Counter) -> R) -> Option<R> {
        match key {
            Key::OVERFLOW => Some(then(&rights.live.overflow)),
            key => self.shared.table.with(key, then),
        }
    }

    /// The entry of a key, if it has one, while it cannot become another key's.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    fn with_leaf<R>(&self, rights: &Rights, key: Key, then: impl FnOnce(Leaf<'_>) -> R) -> Option<R> {
        self.with_counter(rights, key, |counter| then(Leaf::new(&self.shared, rights, key, counter)))
    }

    fn tick(&mut self, now: Now) {
        self.slew_clock(now);
        for change in self.peers.handle_timeout(self.me, now.mono) {
            self.peer_changed(change);
        }
        self.forget_dead_slots();
        self.send_rows();
        self.send_heartbeats(now);
        if now.mono >= self.next_digest {
            let healthy = self.mode == Mode::Healthy;
            self.next_digest = now.mono + if healthy { DIGEST_INTERVAL } else { HEALING_DIGEST_INTERVAL };
            self.send_digests();
        }
        let (limiter, wall) = (&self.limiter, self.wall());
        for rights in limiter.all_rights() {
            rights.live.retire(rights.terms.slot(wall));
        }
        let buckets = self.shared.table.buckets().div_ceil(SWEEP_TICKS);
        let is_dead = |counter: &Counter| match limiter.rights(counter.limit()) {
            Some(rights) => {
                let current = rights.terms.slot(wall);
                counter.retire_published(current);
                rights.terms.is_over(counter, wall)
            }
            None => true,
        };
        self.swept_up_to = self.shared.table.sweep(self.swept_up_to, buckets, is_dead);
    }

    fn peer_changed(&mut self, Change { region, state, silent }: Change) {
        let name = self.regions[region].clone();
        self.events.push(match state {
            PeerState::Stale => Event::PeerStale { region: name },
            PeerState::Healing => Event::PeerHealing { region: name, silent },
            PeerState::Fresh => Event::PeerFresh { region: name, silent },
        });
        if state == PeerState::Healing {
            // Digests first: only what differs is sent, not every row.
            self.next_digest = self.last.mono;
        }
        let mode = self.peers.mode();
        if mode == self.mode {
            return;
        }
        self.mode = mode;
        self.events.push(Event::Mode { mode });
        let limiter = self.limiter();
        for rights in limiter.all_rights() {
            rights.live.set_mode(mode);
            let slot = rights.terms.slot(self.wall());
            let own: Vec<Key> = self.ledger.rows(rights.id, slot, self.me, u16::MAX).map(|(key, _)| key).collect();
            if self.shares_view(rights) {
                self.unsent.extend(own.iter().map(|&key| (rights.id, slot, key)));
            }
            if mode != Mode::Degraded {
                own.into_iter().for_each(|key| self.close(rights, slot, key));
            }
        }
    }

    /// Marks beyond the own share were for while the limit was open.
    fn close(&self, rights: &Rights, slot: u64, key: Key) {
        let base = rights.terms.base(slot);
        self.with_counter(rights, key, |counter| {
            if counter.rights(slot).is_some_and(|published| published.amount > base) {
                counter.publish_rights(slot, Allowance { amount: base, pending: None });
            }
        });
    }

    fn forget_dead_slots(&mut self) {
        let wall = self.wall();
        let limiter = self.limiter();
        let live = |limit, slot| limiter.rights(limit).is_some_and(|rights| slot + 1 >= rights.terms.slot(wall));
        self.ledger.retain(live);
        self.unsent.retain(|&(limit, slot, _)| live(limit, slot));
        self.marked.retain(|_, &mut (_, ends)| ends > wall);
        self.durability.forget(wall);
        self.recovered.retain(|_, marks| marks.iter().any(|mark| mark.ends > wall));
    }

    /// Current, previous, or begun already where a sound clock is ahead of ours.
    fn is_live(&self, rights: &Rights, slot: u64) -> bool {
        let wall = self.wall();
        slot.saturating_add(1) >= rights.terms.slot(wall) && slot <= rights.terms.slot(wall + CLOCK_TOLERANCE)
    }

    fn observe_clock(&mut self, now: Now) {
        self.shared.wall(now);
        self.last = now;
    }

    /// Keeps civil time monotone: after a step back it goes on at nine tenths of its pace until the clock has caught up,
    /// so that slots neither reopen nor stand still.
    fn slew_clock(&mut self, now: Now) {
        let elapsed = now.mono.since(self.last_tick);
        let wall = self.shared.wall(now);
        if now.wall + CLOCK_STEP < wall {
            self.shared.raise_clock(wall + elapsed * 9 / 10);
        }
        self.last_tick = now.mono;
    }

    fn wall(&self) -> WallTime {
        self.shared.wall(self.last)
    }
}

/// Time between digests, and while a region is not healthy. A digest is 150 bytes per limit and slot in use.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);
const HEALING_DIGEST_INTERVAL: Duration = Duration::from_millis(500);

/// A smaller step back of the clock is waited out.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// Ticks in which the whole table is swept: 75 s.
const SWEEP_TICKS: usize = 750;
