//! The nodes of one region in virtual time, over a seeded network, with disks that survive a kill, and an oracle that
//! counts verdicts by the slot that was charged.

mod oracle;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use portolan_config::Roster;
use portolan_limits::{
    Admission, Algorithm, Charge, Claim, Definition, Found, Key, LimitId, Limits, LimitsConfig, MarkLog, MarkSequence,
    Message, Neighbour, PageWrite, Ranking, Recovery, SEGMENT_LEN, Shard, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, Rate, RegionId, Timestamp, WallTime, codec};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};

use self::oracle::Oracle;

/// Milliseconds.
pub const SECOND: u64 = 1000;

const EPOCH_MS: u64 = 1_795_312_345_678;
const DISK_MS: u64 = 3;

/// Longest time that a request of a concurrency limit takes, unless a test says otherwise.
const MOST_MS: u64 = 300;

pub struct Region {
    nodes: Vec<Node>,
    definitions: Vec<Definition>,
    now_ms: u64,
    rng: ChaCha8Rng,
    in_flight: Vec<(u64, usize, usize, Message)>,
    /// A node, and the answers about the past of shards that the network keeps from it.
    kept: Option<(usize, Vec<(usize, Message)>)>,
    cut_off: Vec<usize>,
    loss_percent: u64,
    roster: Roster,
    /// Rosters that nodes hear of, with the time.
    planned: VecDeque<(u64, Vec<usize>)>,
    oracle: Oracle,
    /// Requests of concurrency limits under way: when they end, and at which process.
    under_way: Vec<(u64, usize, Charge, Vec<u8>)>,
    most_ms: u64,
    /// When each limit admitted anything last, and the longest pauses since.
    verdicts: Vec<u64>,
    first_full_slot: u64,
}

struct Node {
    name: NodeName,
    limits: Option<Limits>,
    lives: u64,
    log: MarkLog,
    disk: [Vec<u8>; 2],
    writes: VecDeque<(u64, MarkSequence, Vec<PageWrite>)>,
    /// Writes to its disk wait for this to end.
    stalled: bool,
    /// The roster that it knows.
    roster: Roster,
    /// How many of the limits it knows.
    knows: usize,
}

fn region_id() -> RegionId {
    RegionId::new("here").expect("a name")
}

/// `1000/s` or `5000/day` in fixed windows, `sliding 60/min`, `bucket 10/s burst 50`, `concurrency 5`; `costing 9` where
/// requests cost up to so much.
fn definition(id: u32, text: &str) -> Definition {
    let (text, most_cost) = text.split_once(" costing ").unwrap_or((text, "1"));
    let words: Vec<&str> = text.split(' ').collect();
    let count = |text: &str| text.parse().expect("a count");
    let rate = |text: &str| -> Rate { text.parse().expect("a rate") };
    let algorithm = match words[..] {
        ["sliding", text] => Algorithm::SlidingWindow { quota: rate(text).count, window: rate(text).per },
        ["bucket", text, "burst", burst] => Algorithm::TokenBucket { rate: rate(text), burst: count(burst) },
        ["concurrency", limit] => Algorithm::Concurrency { limit: count(limit) },
        [text] => match text.strip_suffix("/day") {
            Some(quota) => {
                let period = portolan_config::Period::Day;
                let window = Window::Calendar { period, zone: "UTC".to_owned() };
                Algorithm::FixedWindow { quota: count(quota), window }
            }
            None => Algorithm::FixedWindow { quota: rate(text).count, window: Window::Length(rate(text).per) },
        },
        _ => panic!("an unknown limit: {text}"),
    };
    let name = Name::new(&format!("limit-{id}")).expect("a name");
    Definition { most_cost: most_cost.parse().expect("a cost"), ..Definition::new(LimitId(id), name, algorithm) }
}

impl Region {
    /// Nodes that have shared the region's limits for a few seconds.
    pub fn started(seed: u64, rates: &[&str], nodes: usize) -> Self {
        let definitions: Vec<_> = (1..).zip(rates).map(|(id, rate)| definition(id, rate)).collect();
        let names = (1..=nodes).map(|number| NodeName::new(&format!("here-{number}")).expect("a name"));
        let node = |name| Node {
            name,
            limits: None,
            lives: 0,
            log: MarkLog::recover([&[], &[]]).0,
            disk: [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]],
            writes: VecDeque::new(),
            stalled: false,
            roster: Roster::default(),
            knows: definitions.len(),
        };
        let mut region = Self {
            nodes: names.map(node).collect(),
            definitions,
            now_ms: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            in_flight: Vec::new(),
            kept: None,
            cut_off: Vec::new(),
            loss_percent: 0,
            roster: Roster::default(),
            planned: VecDeque::new(),
            oracle: Oracle::default(),
            under_way: Vec::new(),
            most_ms: MOST_MS,
            verdicts: Vec::new(),
            first_full_slot: 0,
        };
        for at in 0..nodes {
            region.list(&(0..=at).collect::<Vec<_>>());
            region.start(at);
        }
        region.pass(6 * SECOND);
        assert!(region.nodes.iter().all(|node| node.limits.as_ref().is_some_and(|limits| limits.limiter().active())));
        region.first_full_slot = region.now(0).wall.as_unix_millis() / SECOND + 1;
        region
    }

    /// Keys and units of the first limit that all nodes together tell of.
    pub fn told(&self) -> (u64, u64) {
        let of = |at: usize| {
            let usage = self.nodes[at].limits.as_ref().map(|limits| limits.overview(self.now(0)));
            let usage = usage.and_then(|usage| usage.into_iter().next()).expect("the node runs and has limits");
            (usage.keys, usage.spent.iter().map(|(_, units)| units).sum::<u64>())
        };
        (0..self.len()).map(of).fold((0, 0), |sum, told| (sum.0 + told.0, sum.1 + told.1))
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn now(&self, ahead: u64) -> Now {
        let mono = Timestamp::ZERO + Duration::from_millis(self.now_ms + ahead);
        Now { mono, wall: WallTime::from_unix_millis(EPOCH_MS + self.now_ms + ahead) }
    }

    /// Owner, standby and the third node of the first limit's key, as the cluster has them.
    pub fn roles(&self) -> [usize; 3] {
        self.roles_of(b"k")
    }

    /// The same for another key.
    pub fn roles_of(&self, key: &[u8]) -> [usize; 3] {
        self.roles_of_limit(1, key)
    }

    /// The same for a key of another limit.
    pub fn roles_of_limit(&self, limit: u32, key: &[u8]) -> [usize; 3] {
        let ranking = Ranking::new(&self.roster);
        let shard = Shard::of(self.key(limit, key));
        let at = |name: &NodeName| self.nodes.iter().position(|node| node.name == *name).expect("a node");
        let [owner, standby] =
            [ranking.owner(shard), ranking.standby(shard)].map(|name| at(name.expect("three nodes")));
        [owner, standby, 3 - owner - standby]
    }

    /// Starts a process from what its disk holds.
    pub fn start(&mut self, at: usize) {
        let now = self.now(0);
        let names: Vec<NodeName> = self.nodes.iter().map(|node| node.name.clone()).collect();
        let node = &mut self.nodes[at];
        node.lives += 1;
        let (log, found) = MarkLog::recover([&node.disk[0], &node.disk[1]]);
        node.log = log;
        let recovery = match found {
            Found::Nothing if node.lives == 1 => Recovery::FirstStart,
            Found::Marks(marks) => Recovery::Marks(marks),
            Found::Nothing | Found::Damaged { .. } => Recovery::Lost,
        };
        // From its own disk, as it knew it last; what is newer it hears later.
        if node.roster.epoch == 0 || !self.cut_off.contains(&at) {
            node.roster = self.roster.clone();
        }
        let config = LimitsConfig {
            node: node.name.clone(),
            region: region_id(),
            neighbours: names,
            rosters: BTreeMap::from([(region_id(), node.roster.clone())]),
            life: node.lives * 100 + at as u64,
            regions: vec![region_id()],
            hash_key: HashKey::new([3; 16]),
            capacity: 64,
            worst_rtt: Duration::from_millis(100),
            budget: ByteSize(1 << 20),
        };
        let mut limits = Limits::new(config, recovery, now);
        limits.handle_definitions(&self.definitions[..node.knows], now);
        node.limits = Some(limits);
        self.drain(at);
    }

    /// Ends a process at once; writes under way are lost.
    pub fn kill(&mut self, at: usize) {
        self.nodes[at].limits = None;
        self.nodes[at].writes.clear();
        self.in_flight.retain(|(_, _, to, _)| *to != at);
        for (_, _, charge, key) in self.under_way.extract_if(.., |(_, by, ..)| *by == at) {
            self.oracle.release(charge.limit, &key);
        }
    }

    /// Wipes the disk of a node that does not run.
    pub fn lose_disk(&mut self, at: usize) {
        self.nodes[at].disk = [vec![0; SEGMENT_LEN], vec![0; SEGMENT_LEN]];
    }

    /// Adds a limit that no node knows yet.
    pub fn add(&mut self, rate: &str) {
        self.definitions.push(definition(self.definitions.len() as u32 + 1, rate));
    }

    /// The first limit is another one from now on, in its next generation.
    pub fn change(&mut self, rate: &str) {
        let generation = self.definitions[0].generation + 1;
        self.definitions[0] = Definition { generation, ..definition(1, rate) };
    }

    /// Lets a node know all limits.
    pub fn define(&mut self, at: usize) {
        let now = self.now(0);
        let node = &mut self.nodes[at];
        node.knows = self.definitions.len();
        if let Some(limits) = &mut node.limits {
            limits.handle_definitions(&self.definitions, now);
        }
        self.drain(at);
    }

    /// A node says what no correct one does.
    pub fn forge(&mut self, from: usize, to: usize, message: Neighbour) {
        let (now, sender) = (self.now(0), self.nodes[from].name.clone());
        let limits = self.nodes[to].limits.as_mut().expect("it runs");
        let _ = limits.handle_message(&region_id(), &sender, Message::Neighbour(message), now);
        self.drain(to);
    }

    /// The process of a node.
    pub fn life(&self, at: usize) -> u64 {
        self.nodes[at].lives * 100 + at as u64
    }

    /// The key of a limit.
    pub fn key(&self, limit: u32, key: &[u8]) -> Key {
        let limiter = self.nodes.iter().find_map(|node| Some(node.limits.as_ref()?.limiter())).expect("one runs");
        limiter.key(LimitId(limit), &[key])
    }

    /// The network keeps answers about the past of shards from a node.
    pub fn keep_answers_to(&mut self, at: usize) {
        self.kept = Some((at, Vec::new()));
    }

    /// It keeps no more of them. Returns those it kept.
    pub fn take_kept(&mut self) -> Vec<(usize, Message)> {
        self.kept.take().map(|(_, kept)| kept).unwrap_or_default()
    }

    /// Nobody hears a node, and it hears nobody.
    pub fn cut_off(&mut self, at: usize) {
        self.cut_off.push(at);
    }

    pub fn heal(&mut self) {
        self.cut_off.clear();
    }

    pub fn lose_percent(&mut self, percent: u64) {
        self.loss_percent = percent;
    }

    /// What a node writes to its disk is on its way until this ends.
    pub fn stall(&mut self, at: usize, stalled: bool) {
        self.nodes[at].stalled = stalled;
    }

    /// Nodes that a process waits for before it may spend from all that is its own.
    pub fn awaited(&self, at: usize) -> Vec<usize> {
        let waits = self.nodes[at].limits.as_ref().map(|limits| limits.waits().nodes).unwrap_or_default();
        (0..self.nodes.len()).filter(|at| waits.contains(&self.nodes[*at].name)).collect()
    }

    /// Lists these nodes after a while.
    pub fn list_after(&mut self, millis: u64, nodes: &[usize]) {
        self.planned.push_back((self.now_ms + millis, nodes.to_vec()));
    }

    fn list(&mut self, nodes: &[usize]) {
        let names = nodes.iter().map(|at| self.nodes[*at].name.clone()).collect();
        self.roster = Roster { epoch: self.roster.epoch + 1, nodes: names };
        for at in 0..self.nodes.len() {
            self.tell_roster(at);
        }
    }

    fn tell_roster(&mut self, at: usize) {
        if self.cut_off.contains(&at) || self.nodes[at].roster == self.roster {
            return;
        }
        let now = self.now(0);
        let rosters = BTreeMap::from([(region_id(), self.roster.clone())]);
        let node = &mut self.nodes[at];
        if let Some(limits) = &mut node.limits {
            node.roster = self.roster.clone();
            limits.handle_rosters(&rosters, now);
        }
        self.drain(at);
    }

    /// One request against each limit at a node; the oracle counts the verdict.
    pub fn request(&mut self, at: usize) {
        self.request_of(at, b"k");
    }

    /// The same for another key.
    pub fn request_of(&mut self, at: usize, key: &[u8]) {
        self.request_costing(at, key, 1);
    }

    /// The same for a request that costs more than a unit.
    pub fn request_costing(&mut self, at: usize, key: &[u8], cost: u32) {
        let now = self.now(0);
        let Node { limits: Some(limits), knows, .. } = &mut self.nodes[at] else { return };
        let limiter = limits.limiter();
        for definition in &self.definitions[..*knows] {
            let claim = Claim { limit: definition.id, key: limiter.key(definition.id, &[key]), cost };
            if let Admission::Allow(charges) = limiter.admit(&[claim], now) {
                let wall = now.wall.as_unix_millis();
                self.oracle.allow(definition, key, charges[0].slot, cost, wall);
                if matches!(definition.algorithm, Algorithm::Concurrency { .. }) {
                    let lasts = 1 + self.rng.next_u64() % self.most_ms;
                    self.under_way.push((self.now_ms + lasts, at, charges[0], key.to_vec()));
                }
                if definition.id == LimitId(1) {
                    self.verdicts.push(self.now_ms);
                }
            }
        }
        if limiter.take_attention() {
            limits.handle_timeout(now);
            self.drain(at);
        }
    }

    /// Requests of concurrency limits take so long from now on, at most.
    pub fn last_at_most(&mut self, millis: u64) {
        self.most_ms = millis;
    }

    /// Requests for a key of the first limit that are under way.
    pub fn in_flight(&self, key: &[u8]) -> usize {
        self.under_way.iter().filter(|(.., charge, of)| charge.limit == LimitId(1) && of == key).count()
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.rng.next_u64() % n
    }

    fn end_requests(&mut self) {
        let now_ms = self.now_ms;
        for (_, at, charge, key) in self.under_way.extract_if(.., |(ends, ..)| *ends <= now_ms) {
            self.oracle.release(charge.limit, &key);
            if let Some(limits) = &self.nodes[at].limits {
                limits.limiter().release(&charge);
            }
        }
    }

    /// Lets time pass, millisecond by millisecond.
    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now_ms += 1;
            let due = self.planned.iter().position(|(at, _)| *at <= self.now_ms);
            if let Some((_, nodes)) = due.and_then(|due| self.planned.remove(due)) {
                self.list(&nodes);
            }
            self.end_requests();
            let now_ms = self.now_ms;
            let arriving: Vec<_> = self.in_flight.extract_if(.., |(at, ..)| *at <= now_ms).collect();
            for (_, from, to, message) in arriving {
                self.deliver(from, to, message);
            }
            for at in 0..self.nodes.len() {
                self.tell_roster(at);
                self.sync(at);
                let now = self.now(0);
                if let Some(limits) = &mut self.nodes[at].limits
                    && limits.poll_timeout().is_some_and(|due| due <= now.mono)
                {
                    limits.handle_timeout(now);
                    self.drain(at);
                }
            }
        }
    }

    /// Lets time pass until so long before the next slot of a window.
    pub fn pass_until_before(&mut self, left: u64, window: u64) {
        let now = self.now(left).wall.as_unix_millis();
        self.pass((window - now % window) % window);
    }

    pub fn deliver(&mut self, from: usize, to: usize, message: Message) {
        let (now, sender) = (self.now(0), self.nodes[from].name.clone());
        if let Some(limits) = &mut self.nodes[to].limits {
            limits.handle_message(&region_id(), &sender, message, now).expect("an honest message is taken");
        }
        self.drain(to);
    }

    fn sync(&mut self, at: usize) {
        let (now, now_ms) = (self.now(0), self.now_ms);
        let node = &mut self.nodes[at];
        let mut durable = None;
        let stalled = node.stalled;
        while let Some((_, sequence, pages)) = node.writes.pop_front_if(|(done, ..)| *done <= now_ms && !stalled) {
            for page in pages {
                node.disk[page.segment][page.offset as usize..][..page.bytes.len()].copy_from_slice(&page.bytes);
            }
            durable = Some(sequence);
        }
        if let (Some(sequence), Some(limits)) = (durable, &mut node.limits) {
            limits.handle_durable(sequence, now);
            self.drain(at);
        }
    }

    fn drain(&mut self, at: usize) {
        let Some(mut limits) = self.nodes[at].limits.take() else { return };
        while let Some((to, message)) = limits.poll_transmit() {
            let bytes = codec::encode(&message).expect("encodes");
            assert!(message.is_long() || bytes.len() < 1150, "{} bytes", bytes.len());
            let name = to.node.expect("a node of this region");
            let to = self.nodes.iter().position(|node| node.name == name).expect("a node of the region");
            let lost = self.rng.next_u64() % 100 < self.loss_percent;
            let answers = matches!(message, Message::Neighbour(Neighbour::Answer(_)));
            if let Some((_, kept)) = self.kept.as_mut().filter(|(from, _)| answers && *from == to) {
                kept.push((at, message));
            } else if !lost && !self.cut_off.contains(&at) && !self.cut_off.contains(&to) {
                let delay = 1 + self.rng.next_u64() % 2;
                self.in_flight.push((self.now_ms + delay, at, to, message));
            }
        }
        let node = &mut self.nodes[at];
        while let Some(write) = limits.poll_marks() {
            node.writes.push_back((self.now_ms + DISK_MS, write.sequence, node.log.append(&write)));
        }
        while limits.poll_event().is_some() {}
        node.limits = Some(limits);
    }

    /// No limit admitted more than it promises, of any key.
    pub fn check_bound(&self) {
        self.oracle.check();
    }

    /// Slots of the first limit that lie wholly under load, with what they admitted; its window is a second.
    pub fn full_slots(&self) -> Vec<(u64, u64)> {
        let last = self.now(0).wall.as_unix_millis() / SECOND;
        let slots = self.oracle.by_slot(LimitId(1));
        (self.first_full_slot..last).map(|slot| (slot, slots.get(&slot).copied().unwrap_or(0))).collect()
    }

    /// Units of the first limit's key.
    pub fn admitted_in_all(&self) -> u64 {
        self.admitted(1, b"k")
    }

    /// Units of another key.
    pub fn admitted(&self, limit: u32, key: &[u8]) -> u64 {
        self.oracle.admitted(LimitId(limit), key)
    }

    /// The longest time without any admission by the first limit.
    pub fn longest_stall(&self, since: u64) -> u64 {
        let times: Vec<u64> = self.verdicts.iter().copied().filter(|at| *at >= since).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(u64::MAX)
    }
}
