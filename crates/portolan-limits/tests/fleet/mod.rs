//! Several regions' limits in virtual time over a seeded network, with disks that survive or lose a crash, clocks that
//! step, and an oracle that counts verdicts outside the ledger.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use portolan_limits::{
    Admission, Algorithm, Claim, Definition, DenyReason, Event, Found, Key, LimitId, Limiter, Limits, LimitsConfig,
    MarkLog, MarkSequence, Message, OnPartition, Recovery, SEGMENT_LEN, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, Rate, RegionId, Timestamp, WallTime, codec};

/// Largest datagram the mesh carries.
const DATAGRAM: usize = 1150;

/// Civil time at the start: not a round number of anything.
const EPOCH_MS: u64 = 1_795_312_345_678;

/// Civil time when a fleet starts.
pub const START: WallTime = WallTime::from_unix_millis(EPOCH_MS);

pub const HASH_KEY: HashKey = HashKey::new(*b"0123456789abcdef");

/// Deterministic randomness (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Seed(pub u64);

impl Seed {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What the network does to messages.
#[derive(Clone, Debug)]
pub struct Network {
    pub delay_ms: u64,
    pub jitter_ms: u64,
    pub loss_percent: u64,
    pub repeat_percent: u64,
    /// Directions that carry nothing.
    pub cut: Vec<(usize, usize)>,
}

impl Default for Network {
    fn default() -> Self {
        Self { delay_ms: 40, jitter_ms: 10, loss_percent: 0, repeat_percent: 0, cut: Vec::new() }
    }
}

pub struct Region {
    pub id: RegionId,
    pub limits: Option<Limits>,
    pub limiter: Arc<Limiter>,
    /// Clock minus the simulation's, in milliseconds.
    pub clock_ms: i64,
    /// Time from asking for a write until it is durable.
    pub disk_ms: u64,
    /// What it was told last.
    definitions: Vec<Definition>,
    log: MarkLog,
    disk: [Vec<u8>; 2],
    writes: VecDeque<(u64, MarkSequence)>,
}

/// Verdicts per limit, key and charged slot: how many were `Allow`, per region.
pub type Allowed = BTreeMap<(LimitId, Key, u64), Vec<u64>>;

pub struct Fleet {
    pub regions: Vec<Region>,
    pub network: Network,
    pub now_ms: u64,
    pub allowed: Allowed,
    /// Refusals per region and reason; `None` counts `Wait`.
    pub refused: BTreeMap<(usize, Option<&'static str>), u64>,
    pub seed: Seed,
    /// Messages that told a region its own rows.
    pub echoes: u64,
    /// What each region's state machine told.
    pub events: Vec<(usize, Event)>,
    in_flight: Vec<(u64, usize, usize, Message)>,
    capacity: usize,
}

pub fn definition(id: u32, rate: &str, on_partition: OnPartition) -> Definition {
    let rate: Rate = rate.parse().expect("a rate");
    let algorithm = Algorithm::FixedWindow { quota: rate.count, window: Window::Length(rate.per) };
    let name = Name::new(&format!("limit-{id}")).expect("a name");
    Definition { on_partition, expose_slot: true, ..Definition::new(LimitId(id), name, algorithm) }
}

impl Fleet {
    /// `count` regions started for the first time.
    pub fn new(count: usize, definitions: Vec<Definition>, seed: u64) -> Self {
        let regions: Vec<RegionId> =
            (0..count).map(|at| RegionId::new(&format!("region-{at}")).expect("a name")).collect();
        let fleet = regions.into_iter().map(|id| {
            let (log, _) = MarkLog::recover([&[], &[]]);
            let disk = [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]];
            let limiter = Limits::new(config(&id, &[], 8, 0), Recovery::FirstStart, Now::default()).limiter();
            let (definitions, writes) = (definitions.clone(), VecDeque::new());
            Region { id, limits: None, limiter, clock_ms: 0, disk_ms: 2, definitions, log, disk, writes }
        });
        let mut fleet = Self {
            regions: fleet.collect(),
            network: Network::default(),
            now_ms: 1000,
            allowed: Allowed::new(),
            refused: BTreeMap::new(),
            seed: Seed(seed),
            echoes: 0,
            events: Vec::new(),
            in_flight: Vec::new(),
            capacity: 256,
        };
        (0..count).for_each(|at| fleet.boot(at, Recovery::FirstStart));
        fleet
    }

    pub fn now(&self, at: usize) -> Now {
        let wall = (EPOCH_MS + self.now_ms).saturating_add_signed(self.regions[at].clock_ms);
        Now { mono: Timestamp::ZERO + Duration::from_millis(self.now_ms), wall: WallTime::from_unix_millis(wall) }
    }

    pub fn limits(&self, at: usize) -> &Limits {
        self.regions[at].limits.as_ref().expect("the region runs")
    }

    pub fn boot(&mut self, at: usize, recovery: Recovery) {
        let ids: Vec<RegionId> = self.regions.iter().map(|region| region.id.clone()).collect();
        let now = self.now(at);
        let mut limits = Limits::new(config(&ids[at], &ids, self.capacity, self.now_ms), recovery, now);
        limits.handle_definitions(&self.regions[at].definitions, now);
        self.regions[at].limiter = limits.limiter();
        self.regions[at].limits = Some(limits);
        self.drain(at);
    }

    /// The fleet some time later.
    pub fn after(&mut self, millis: u64) -> &mut Self {
        self.run(millis);
        self
    }

    /// Ends the process. Writes not yet durable are torn away.
    pub fn crash(&mut self, at: usize) {
        self.regions[at].limits = None;
        self.regions[at].writes.clear();
    }

    /// Starts the process again from its disk.
    pub fn restart(&mut self, at: usize) {
        let region = &mut self.regions[at];
        let (log, found) = MarkLog::recover([&region.disk[0], &region.disk[1]]);
        region.log = log;
        let recovery = match found {
            Found::Marks(marks) => Recovery::Marks(marks),
            Found::Nothing | Found::Damaged { .. } => Recovery::Lost,
        };
        self.boot(at, recovery);
    }

    /// Wipes the disk of a region that does not run.
    pub fn lose_disk(&mut self, at: usize) {
        self.regions[at].disk = [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]];
    }

    pub fn define(&mut self, definitions: Vec<Definition>) {
        for at in 0..self.regions.len() {
            self.define_at(at, definitions.clone());
        }
    }

    /// Tells one region.
    pub fn define_at(&mut self, at: usize, definitions: Vec<Definition>) {
        let now = self.now(at);
        let region = &mut self.regions[at];
        region.definitions = definitions;
        if let Some(limits) = &mut region.limits {
            limits.handle_definitions(&region.definitions, now);
            region.limiter = limits.limiter();
        }
        self.drain(at);
    }

    /// One request of one unit; `keys` are claimed of the limits together.
    pub fn request(&mut self, at: usize, claims: &[(u32, u64)]) -> Option<Admission> {
        self.request_costing(at, claims, 1)
    }

    /// One request that costs so much of each limit.
    pub fn request_costing(&mut self, at: usize, claims: &[(u32, u64)], cost: u32) -> Option<Admission> {
        self.regions[at].limits.as_ref()?;
        let now = self.now(at);
        let limiter = Arc::clone(&self.regions[at].limiter);
        let claims: Vec<Claim> = claims
            .iter()
            .map(|&(limit, key)| {
                let limit = LimitId(limit);
                Claim { limit, key: limiter.key(limit, &[&key.to_le_bytes()]), cost }
            })
            .collect();
        let admission = limiter.admit(&claims, now);
        match &admission {
            Admission::Allow(charges) => {
                for (claim, charge) in claims.iter().zip(charges) {
                    let regions = self.regions.len();
                    let counts = self.allowed.entry((claim.limit, claim.key, charge.slot));
                    counts.or_insert_with(|| vec![0; regions])[at] += u64::from(cost);
                }
            }
            Admission::Deny(denial) => self.count_refusal(at, Some(reason(denial.reason))),
            Admission::Wait(_) => self.count_refusal(at, None),
        }
        if limiter.take_attention() {
            self.wake(at);
        }
        Some(admission)
    }

    /// Lets `millis` pass, one by one.
    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now_ms += 1;
            self.deliver();
            for at in 0..self.regions.len() {
                let mono = self.now(at).mono;
                let due = |limits: &Limits| limits.poll_timeout().is_some_and(|timeout| timeout <= mono);
                if self.regions[at].limits.as_ref().is_some_and(due) {
                    self.wake(at);
                }
                self.sync(at);
            }
        }
    }

    /// Runs until a limiter admits, that is until the first write is durable.
    pub fn settle(&mut self) {
        self.run(10);
        assert!(self.regions.iter().all(|region| region.limits.is_none() || region.limiter.active()));
    }

    /// Spend of a key in its busiest slot, all regions together.
    pub fn busiest(&self, limit: u32) -> u64 {
        let of_limit = self.allowed.iter().filter(|((id, ..), _)| id.0 == limit);
        of_limit.map(|(_, counts)| counts.iter().sum()).max().unwrap_or(0)
    }

    pub fn refusals(&self, at: usize, reason: Option<&'static str>) -> u64 {
        self.refused.get(&(at, reason)).copied().unwrap_or(0)
    }

    fn count_refusal(&mut self, at: usize, reason: Option<&'static str>) {
        *self.refused.entry((at, reason)).or_default() += 1;
    }

    fn wake(&mut self, at: usize) {
        let now = self.now(at);
        if let Some(limits) = &mut self.regions[at].limits {
            limits.handle_timeout(now);
        }
        self.drain(at);
    }

    fn drain(&mut self, at: usize) {
        let Some(mut limits) = self.regions[at].limits.take() else { return };
        while let Some((to, message)) = limits.poll_transmit() {
            let encoded = codec::encode(&message).expect("encodes");
            assert!(encoded.len() < DATAGRAM, "{} bytes", encoded.len());
            let to = self.regions.iter().position(|region| region.id == to.region).expect("a region of the scope");
            self.echoes += u64::from(matches!(message, Message::Echo(_)));
            self.send(at, to, &message);
        }
        let region = &mut self.regions[at];
        while let Some(write) = limits.poll_marks() {
            for page in region.log.append(&write) {
                region.disk[page.segment][page.offset as usize..][..page.bytes.len()].copy_from_slice(&page.bytes);
            }
            region.writes.push_back((self.now_ms + region.disk_ms, write.sequence));
        }
        while let Some(event) = limits.poll_event() {
            self.events.push((at, event));
        }
        region.limits = Some(limits);
    }

    fn send(&mut self, from: usize, to: usize, message: &Message) {
        let copies = 1 + u64::from(self.seed.percent(self.network.repeat_percent));
        for _ in 0..copies {
            let delay = self.network.delay_ms + self.seed.below(self.network.jitter_ms + 1);
            if !self.seed.percent(self.network.loss_percent) && !self.network.cut.contains(&(from, to)) {
                self.in_flight.push((self.now_ms + delay, from, to, message.clone()));
            }
        }
    }

    fn deliver(&mut self) {
        let now_ms = self.now_ms;
        let due: Vec<_> = self.in_flight.extract_if(.., |(at, ..)| *at <= now_ms).collect();
        for (_, from, to, message) in due {
            let now = self.now(to);
            let sender = self.regions[from].id.clone();
            if let Some(limits) = &mut self.regions[to].limits {
                // Rows of a slot that is over for the receiver are refused; everything else is known to both.
                let _ = limits.handle_message(&sender, &node(&sender), message, now);
            }
            self.drain(to);
        }
    }

    fn sync(&mut self, at: usize) {
        let now = self.now(at);
        let now_ms = self.now_ms;
        let region = &mut self.regions[at];
        let mut durable = None;
        while let Some((_, sequence)) = region.writes.pop_front_if(|(ready, _)| *ready <= now_ms) {
            durable = Some(sequence);
        }
        if let (Some(sequence), Some(limits)) = (durable, &mut region.limits) {
            limits.handle_durable(sequence, now);
            self.drain(at);
        }
    }
}

fn config(region: &RegionId, regions: &[RegionId], capacity: usize, life: u64) -> LimitsConfig {
    let worst_rtt = Duration::from_millis(100);
    LimitsConfig {
        node: node(region),
        region: region.clone(),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life,
        regions: regions.to_vec(),
        hash_key: HASH_KEY,
        capacity,
        worst_rtt,
        budget: ByteSize(1 << 20),
    }
}

/// The one node of a region.
pub fn node(region: &RegionId) -> NodeName {
    NodeName::new(&format!("{region}-1")).expect("a name")
}

fn reason(reason: DenyReason) -> &'static str {
    match reason {
        DenyReason::Exhausted => "exhausted",
        DenyReason::Degraded => "degraded",
        DenyReason::Closed => "closed",
    }
}
