//! The state machine beside the limiter: it reads what workers have charged, tells the other regions, lends and borrows
//! units, watches which regions are heard, and asks for durable marks. Never decides an admission and never blocks one.
//!
//! Read in this order: `watch` (which keys are under pressure), `rounds` (what is done for them), `loans` and
//! `entitlement` (what is lent and what may be spent), `transmit` and `exchange` (what is told and heard), `partition`.

mod book;
mod clock;
mod entitlement;
mod event;
mod exchange;
mod flight;
mod loans;
mod marking;
mod owning;
mod paces;
mod partition;
mod recalls;
mod report;
mod rounds;
mod siblings;
mod standings;
mod stats;
mod subleasing;
mod tokens;
mod transmit;
mod waits;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use portolan_config::{LimitId, Roster};
use portolan_model::{ByteSize, HashKey, NodeName, Now, RegionId, Timestamp, WallTime};

pub(crate) use self::marking::MAX_MARKED;
use self::{
    book::Book, clock::Slew, marking::Marked, partition::Partition, report::OwnUse, siblings::Siblings, watch::Watch,
};
pub use self::{
    event::Event,
    partition::PartitionTally,
    report::{KeyUsage, LimitUsage, PeerView, RegionUsage, SlotDigest, TOP_KEYS, Tally},
    siblings::Recipient,
    stats::Stats,
    waits::{OverShare, Waits},
};
use crate::{
    acks::{Seen, Unacknowledged},
    budget::Budget,
    calendar::Calendars,
    counter::Counter,
    definition::{Definition, Terms},
    durability::Durability,
    horizon::{Barrier, CLOCK_TOLERANCE},
    key::Key,
    ledger::Ledger,
    lender::{LoanRequest, Loans},
    limiter::Limiter,
    marks::{Mark, MarkWrite, Recovery},
    message::{Message, Scope},
    outbox::{Destination, Events, Outbox},
    peers::{GOSSIP_INTERVAL, Mode, Peers},
    region::gates::Gate,
    rights::{Live, Rights},
    shared::Shared,
    sync::Mutex,
    table::Tenant,
};

/// What a region's limits are built from.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// This node.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The other nodes that the region may have.
    pub neighbours: Vec<NodeName>,
    /// The nodes that share the limits of each region. This region without an entry: this node alone does; another one:
    /// it is sent to as a whole.
    pub rosters: BTreeMap<RegionId, Roster>,
    /// Tells this process from every other one of the region's nodes, and is above that of every earlier one of this node.
    pub life: u64,
    /// The scope: all regions that share the limits, this one included (it is added if it is missing), in any order.
    /// Fixed for the life of the cluster; at most 127.
    pub regions: Vec<RegionId>,
    /// Secret of the cluster for hashing keys.
    pub hash_key: HashKey,
    /// Keys that have a counter of their own at one time; beyond it keys of a limit share one. 64 bytes each.
    pub capacity: usize,
    /// Longest round trip to a region of the scope; lengthens the silence that counts as staleness.
    pub worst_rtt: Duration,
    /// Bytes of rows a second that this region's nodes send to all other regions together at most; what does not fit is
    /// told later. Every node has its part of it for each region, but never less than 4 KiB.
    pub budget: ByteSize,
}

#[cfg(test)]
impl LimitsConfig {
    /// Of a node alone in a region alone.
    fn alone() -> Self {
        Self {
            node: NodeName::new("here-1").expect("a name"),
            region: RegionId::new("here").expect("a name"),
            neighbours: Vec::new(),
            rosters: BTreeMap::new(),
            life: 1,
            regions: Vec::new(),
            hash_key: HashKey::new([3; 16]),
            capacity: 64,
            worst_rtt: Duration::from_millis(100),
            budget: ByteSize(1 << 20),
        }
    }
}

/// A key in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub limit: LimitId,
    pub slot: u64,
    pub key: Key,
}

/// The state machine. One owner calls it; the [`Limiter`] is shared.
///
/// The driver feeds `handle_*`, then drains `poll_transmit`, `poll_marks`, `poll_loan` and `poll_event`, and calls
/// [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Limits {
    /// The scope in order, and our position in it.
    regions: Vec<RegionId>,
    me: usize,
    scope: Scope,
    worst_rtt: Duration,
    limiter: Arc<Limiter>,
    shared: Arc<Shared>,
    calendars: Calendars,
    books: BTreeMap<LimitId, Book>,
    ledger: Ledger,
    /// Keys under pressure, here or elsewhere.
    watched: BTreeMap<(LimitId, Key), Watch>,
    most_watched: usize,
    /// Keys that cannot wait for the next round, and those of them whose rows should leave at once.
    urgent: BTreeSet<(LimitId, Key)>,
    hurry: BTreeSet<(LimitId, Key)>,
    /// Where the last round stopped, if it did not look at every key.
    looked_up_to: (LimitId, Key),
    /// When keys that cannot wait were last seen to.
    urged_at: Timestamp,
    /// Own rows that the others have not been told.
    untold: BTreeSet<Place>,
    sent_up_to: Place,
    /// Messages with loans to a node of another region, and those that came from one.
    unacknowledged: BTreeMap<Destination, Unacknowledged<Place>>,
    seen: BTreeMap<Destination, Seen>,
    /// Those of whom something came since they were last told.
    owed: BTreeSet<Destination>,
    /// Those to which nothing comes of what is lent, as of the last round.
    unheard: BTreeSet<Destination>,
    heartbeats: u64,
    budget: Budget,
    /// Of what is sent because a digest differed, to all regions together.
    repairs: Budget,
    loans: Loans,
    /// Slots of buckets whose rate others may still fill by, and until when by the clock that does not leap. Of watched
    /// keys alone, for some slots each.
    on_loan: BTreeMap<(LimitId, Key), paces::LentSlots>,
    peers: Peers,
    partition: Option<Partition>,
    durability: Durability,
    /// The nodes of this region and of the others.
    siblings: Siblings,
    /// Marks that came with a shard, until their limit is defined.
    recovered: BTreeMap<LimitId, Vec<Mark>>,
    /// What was asked to be durable.
    marked: BTreeMap<(LimitId, Key, u64), Marked>,
    mode: Mode,
    fenced: bool,
    clock_ahead: Vec<bool>,
    last: Now,
    slew: Slew,
    /// Nothing is lent before.
    lends_from: Timestamp,
    next_tick: Timestamp,
    next_digest: Timestamp,
    repair_turn: usize,
    /// By region: how many more digests ask it for what it holds of this region's rows.
    echo_rounds: Vec<usize>,
    /// When what was asked for so has come, as a rule.
    echoed_at: Timestamp,
    swept_up_to: usize,
    /// What the last walk over a large table found, and when it was.
    walked: Mutex<Option<(Timestamp, BTreeMap<LimitId, OwnUse>)>>,
    /// Definitions came since dead slots were last looked for.
    redefined: bool,
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
        let count = regions.len();
        let me = regions.binary_search(&config.region).expect("the scope holds this region: it was just added");
        let barrier = Barrier::new(&recovery, now);
        let shared = Arc::new(Shared::new(config.hash_key, config.capacity, barrier, now));
        let mut rosters = config.rosters;
        let alone = || Roster { epoch: 1, nodes: vec![config.node.clone()] };
        rosters.entry(config.region.clone()).or_insert_with(alone);
        let lends_from = now.mono + if recovery == Recovery::FirstStart { Duration::ZERO } else { CATCHING_UP };
        let peers = Peers::new(count, me, config.worst_rtt, &recovery, now.mono);
        let mut limits = Self {
            me,
            scope: Scope::of(&config.hash_key, &regions),
            worst_rtt: config.worst_rtt,
            limiter: Arc::new(Limiter::new(Box::default(), Arc::clone(&shared))),
            calendars: Calendars::default(),
            books: BTreeMap::new(),
            // A region's table can hold that many rows in each of the slots that may be live.
            ledger: Ledger::new(config.hash_key, count, 3 * shared.table.len()),
            watched: BTreeMap::new(),
            most_watched: shared.table.len(),
            urgent: BTreeSet::new(),
            hurry: BTreeSet::new(),
            looked_up_to: (LimitId(0), Key::EVERY),
            urged_at: Timestamp::ZERO,
            untold: BTreeSet::new(),
            sent_up_to: Place { limit: LimitId(0), slot: 0, key: Key::EVERY },
            unacknowledged: BTreeMap::new(),
            seen: BTreeMap::new(),
            owed: BTreeSet::new(),
            unheard: BTreeSet::new(),
            heartbeats: 0,
            budget: Budget::new(config.budget, now.mono),
            repairs: Budget::new(ByteSize(config.budget.0 / REPAIR_PART), now.mono),
            loans: Loans::default(),
            on_loan: BTreeMap::new(),
            mode: peers.mode(),
            peers,
            partition: None,
            durability: Durability::new(Barrier::known(&recovery)),
            siblings: Siblings::new(config.node, config.neighbours, config.life, recovery, shared.table.len()),
            recovered: BTreeMap::new(),
            marked: BTreeMap::new(),
            fenced: false,
            clock_ahead: vec![false; count],
            last: now,
            slew: Slew::new(now),
            lends_from,
            next_tick: now.mono,
            next_digest: now.mono,
            repair_turn: 0,
            echo_rounds: vec![0; count],
            echoed_at: Timestamp::ZERO,
            swept_up_to: 0,
            walked: Mutex::new(None),
            redefined: false,
            outbox: Outbox::default(),
            events: Events::new(),
            stats: Stats::default(),
            shared,
            regions,
        };
        limits.give_all_away();
        limits.handle_rosters(&rosters, now);
        limits
    }

    /// The decision function for the definitions in force; another one after each
    /// [`handle_definitions`](Self::handle_definitions). Older ones go on counting into the same counters.
    pub fn limiter(&self) -> Arc<Limiter> {
        Arc::clone(&self.limiter)
    }

    /// The civil time that slots are cut by: never falls, so it may be ahead of a clock that was set back.
    pub fn latest(&self) -> WallTime {
        self.shared.latest()
    }

    /// Stops spending for good: another process has taken over this region's shares. No limiter of this state machine,
    /// old ones included, admits or is active from here on; a request that is being charged meanwhile may still pass.
    pub fn fence(&mut self) {
        self.fenced = true;
        self.shared.set_active(false);
        self.shared.gates.all().for_each(Gate::shut);
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
        self.turn_books();
        let mut changed = Vec::new();
        for rights in limiter.all_rights() {
            match before.rights(rights.id) {
                Some(old) => {
                    if old.generation != rights.generation || old.terms != rights.terms {
                        changed.push(rights.id);
                    }
                    self.keep_allowance(old, rights);
                }
                None => self.restore_marks(rights),
            }
        }
        self.rescale_buckets(&before, &changed);
        let is_new = definitions.iter().any(|definition| flight::is_new(definition, before.all_rights()));
        self.define_flight(is_new);
        self.republish(&changed);
        if !changed.is_empty() {
            self.events.push(Event::EpochChange { limits: changed });
        }
        let ended = |limit: LimitId| limiter.rights(limit).is_none();
        self.ledger.forget_limits(ended);
        self.books.retain(|&limit, _| !ended(limit));
        self.watched.retain(|&(limit, _), _| !ended(limit));
        self.untold.retain(|place| !ended(place.limit));
        self.marked.retain(|&(limit, ..), _| !ended(limit));
        self.redefined = true;
        self.set_minorities();
    }

    /// Does what is due: call at [`poll_timeout`](Self::poll_timeout), and at once when a worker's
    /// [`Limiter::take_attention`] says so.
    pub fn handle_timeout(&mut self, now: Now) {
        self.observe_clock(now);
        self.read_counters(now);
        self.run_siblings(now);
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + GOSSIP_INTERVAL;
            self.tick(now);
        } else {
            self.run_urgent(now);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let urgent = (!self.urgent.is_empty()).then(|| self.next_urgent());
        [urgent, self.siblings.poll_timeout(self.last.mono)].into_iter().flatten().chain([self.next_tick]).min()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<(Recipient, Message)> {
        if self.outbox.is_empty() {
            self.poll_siblings();
        }
        let (Destination { region, node }, message) = self.outbox.pop()?;
        Some((Recipient { region: self.regions[region].clone(), node }, message))
    }

    /// The next write to make durable. A failed write is tried again by the driver until it succeeds; meanwhile no
    /// other is handed out.
    pub fn poll_marks(&mut self) -> Option<MarkWrite> {
        let write = self.durability.poll(self.wall(), self.siblings.seats())?;
        self.siblings.copies.handle_write(&write);
        self.stats.mark_writes += 1;
        Some(write)
    }

    /// The next chunk to ask a lender for. Nothing waits for the answer.
    pub fn poll_loan(&mut self) -> Option<LoanRequest> {
        self.loans.poll()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop()
    }

    fn define(&mut self, definition: &Definition) -> Rights {
        let terms = Terms::new(definition, self.me, self.regions.len(), &mut self.calendars);
        let live = self.limiter.rights(definition.id).map(|before| Arc::clone(&before.live));
        let live = live.unwrap_or_else(|| Arc::new(Live::new(self.mode)));
        let book = Book::new(definition, &terms);
        let before = self.books.insert(definition.id, book);
        if let (Some(before), Some(book)) = (before, self.books.get_mut(&definition.id)) {
            book.carry_over(&before);
        }
        Rights::new(definition, terms, live)
    }

    fn tick(&mut self, now: Now) {
        self.slew_clock(now);
        for change in self.peers.handle_timeout(self.me, now.mono) {
            self.peer_changed(change);
        }
        self.turn_books();
        self.end_rate_loans();
        self.run_round(now);
        self.repeat_loans(now);
        self.send_rows(now);
        self.send_heartbeats(now);
        if now.mono >= self.next_digest {
            let healthy = self.mode == Mode::Healthy;
            self.next_digest = now.mono + if healthy { DIGEST_INTERVAL } else { HEALING_DIGEST_INTERVAL };
            self.send_digests();
        }
        self.forget_dead_slots();
        self.forget_dropped();
        self.send_recalls();
        self.sweep_table();
    }

    fn sweep_table(&mut self) {
        let (limiter, wall) = (&self.limiter, self.wall());
        for rights in limiter.all_rights() {
            rights.lapse(&rights.live.overflow, false, wall);
            rights.live.retire(rights.terms.slot(wall));
        }
        let buckets = self.shared.table.buckets().div_ceil(SWEEP_TICKS);
        let is_dead = |counter: &Counter| match limiter.rights(counter.limit()) {
            Some(rights) => {
                let on_loan = counter.key().is_some_and(|key| self.on_loan.contains_key(&(rights.id, key)));
                rights.lapse(counter, on_loan, wall);
                counter.retire_published(rights.terms.slot(wall));
                counter.retire_wrapped(rights.terms.slot(self.shared.latest()));
                rights.terms.is_over(counter, wall)
            }
            None => true,
        };
        self.swept_up_to = self.shared.table.sweep(self.swept_up_to, buckets, is_dead);
    }

    fn forget_dead_slots(&mut self) {
        let wall = self.wall();
        let limiter = self.limiter();
        let mut turned = std::mem::take(&mut self.redefined);
        for rights in limiter.all_rights() {
            turned |= self.ledger.raise_floor(rights.id, rights.terms.slot(wall).saturating_sub(1));
        }
        let books = &mut self.books;
        let count = SWEPT_ACCOUNTS.max(self.ledger.len() / SWEPT_PART);
        self.ledger.sweep(count, |limit, slot, _, account| {
            let (Some(rights), Some(book)) = (limiter.rights(limit), books.get_mut(&limit)) else { return };
            book.close_slot(account.consumed(slot, None).saturating_sub(rights.terms.most_in_slot()));
        });
        if !turned {
            return;
        }
        let live = |limit, slot| limiter.rights(limit).is_some_and(|rights| slot + 1 >= rights.terms.slot(wall));
        self.untold.retain(|place| live(place.limit, place.slot));
        self.marked.retain(|_, marked| marked.ends > wall);
        self.loans.forget(wall);
        self.durability.forget(wall);
        self.recovered.retain(|_, marks| marks.iter().any(|mark| mark.ends > wall));
        self.forget_siblings(wall);
    }

    /// Whether admissions depend on the merged view: then every row matters, not only those under pressure.
    fn shares_view(&self, rights: &Rights) -> bool {
        rights.is_open() && self.mode != Mode::Healthy
    }

    /// The counter of a key, which is made if it has none; nothing when there is no room for it.
    fn with_entry<R>(&self, rights: &Rights, key: Key, then: impl FnOnce(&Counter) -> R) -> Option<R> {
        let limiter = &self.limiter;
        let found = |place| Some(then(self.shared.table.counter(place)));
        let is_dead = |counter: &Counter| limiter.is_dead(counter, self.wall());
        let tenant = Tenant { key, limit: rights.id };
        self.shared.table.enter(tenant, is_dead, || rights.beginning(&self.shared, key, self.wall()), found, || None)
    }

    /// Current, previous, next, or begun already where a sound clock is ahead of ours.
    fn is_live(&self, rights: &Rights, slot: u64) -> bool {
        let wall = self.wall();
        slot.saturating_add(1) >= rights.terms.slot(wall) && slot <= rights.terms.slot(wall + CLOCK_TOLERANCE) + 1
    }

    fn is_live_place(&self, place: &Place) -> bool {
        self.limiter.rights(place.limit).is_some_and(|rights| self.is_live(rights, place.slot))
    }
}

/// Time between digests, and while a region is not healthy. A digest is 150 bytes per limit and slot in use.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);
const HEALING_DIGEST_INTERVAL: Duration = Duration::from_millis(500);

/// The part of the budget for rows that repairs have beside it. While rows wait for their turn digests differ all the time.
const REPAIR_PART: u64 = 8;

/// For so long after a restart a node lends nothing: the log that it starts from may be old, and its share another region's
/// by now. Mostly it hears of that within this time; what it lends before nobody spends.
const CATCHING_UP: Duration = Duration::from_secs(2);

/// Ticks in which the whole table is swept: 75 s.
const SWEEP_TICKS: usize = 750;

/// Accounts swept per tick: at least so many, and this part of all of them.
const SWEPT_ACCOUNTS: usize = 1024;
const SWEPT_PART: usize = 20;
