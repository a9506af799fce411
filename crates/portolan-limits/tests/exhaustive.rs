//! Every order of requests, rounds, deliveries and losses of a fleet as small as it can be and still go wrong: three
//! regions, a limit of three, two slots. Breadth first over the real state machines, from the shortest history on; a
//! state is reached again by repeating its history.
//!
//! The ordinary run stops after some states; `EXHAUSTIVE_STATES=1000000 cargo test --release -p portolan-limits --test
//! exhaustive -- --nocapture` goes to the end and says how many there are.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use portolan_limits::{
    Admission, Algorithm, Claim, Definition, LimitId, Limiter, Limits, LimitsConfig, Message, Recipient, Recovery,
    Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, Timestamp, WallTime, codec};

const REGIONS: usize = 3;
const QUOTA: u64 = 3;
const LIMIT: LimitId = LimitId(1);
const HASH_KEY: HashKey = HashKey::new([7; 16]);

/// Two thirds into a slot; a gossip round later the next one is near enough to be lent of.
const START_MS: u64 = 1_795_312_345_650;

/// From one round to the next, and how many there are: three in the first slot, two in the second.
const ROUND: Duration = Duration::from_millis(110);
const ROUNDS: u8 = 5;

/// Requests of a region between two rounds: one that its base covers, and one that asks for a loan.
const MOST_REQUESTS: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A request at a region.
    Request(usize),
    /// A message arrives; those that never do are lost.
    Deliver(u64),
    /// Time passes, and every region's round begins.
    Round,
}

struct World {
    regions: Vec<Limits>,
    round: u8,
    requests: [u8; REGIONS],
    asked: [u8; REGIONS],
    /// By their hash, so that a message repeated is one.
    in_flight: BTreeMap<u64, (usize, usize, Message)>,
    allowed: BTreeMap<u64, [u64; REGIONS]>,
}

fn region(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at}")).expect("a name")
}

/// The one node of a region.
fn node(at: usize) -> NodeName {
    NodeName::new(&format!("{}-1", region(at))).expect("a name")
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            regions: Vec::new(),
            round: 0,
            requests: [0; REGIONS],
            asked: [0; REGIONS],
            in_flight: BTreeMap::new(),
            allowed: BTreeMap::new(),
        };
        let algorithm = Algorithm::FixedWindow { quota: QUOTA, window: Window::Length(Duration::from_secs(1)) };
        let definition = Definition::new(LIMIT, Name::new("three").expect("a name"), algorithm);
        for at in 0..REGIONS {
            let config = LimitsConfig {
                node: node(at),
                region: region(at),
                neighbours: Vec::new(),
                rosters: BTreeMap::new(),
                life: 1,
                regions: (0..REGIONS).map(region).collect(),
                hash_key: HASH_KEY,
                capacity: 8,
                worst_rtt: Duration::from_millis(20),
                budget: ByteSize(1 << 20),
            };
            let mut limits = Limits::new(config, Recovery::FirstStart, world.now());
            limits.handle_definitions(std::slice::from_ref(&definition), world.now());
            world.regions.push(limits);
        }
        (0..REGIONS).for_each(|at| world.drain(at));
        world
    }

    fn after(path: &[Step]) -> Self {
        let mut world = Self::new();
        path.iter().for_each(|step| world.take(*step));
        world
    }

    fn now(&self) -> Now {
        let passed = ROUND * u32::from(self.round);
        Now { mono: Timestamp::ZERO + passed, wall: WallTime::from_unix_millis(START_MS) + passed }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> =
            (0..REGIONS).filter(|&at| self.requests[at] < MOST_REQUESTS).map(Step::Request).collect();
        steps.extend(self.in_flight.keys().map(|&message| Step::Deliver(message)));
        steps.extend((self.round < ROUNDS).then_some(Step::Round));
        steps
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Request(at) => self.request(at),
            Step::Deliver(message) => {
                let Some((from, to, message)) = self.in_flight.remove(&message) else { return };
                // Rows of a slot that is over are refused.
                let now = self.now();
                let _ = self.regions[to].handle_message(&region(from), &node(from), message, now);
                self.drain(to);
            }
            Step::Round => {
                self.round += 1;
                self.requests = [0; REGIONS];
                for at in 0..REGIONS {
                    let now = self.now();
                    self.regions[at].handle_timeout(now);
                    self.drain(at);
                }
            }
        }
    }

    fn request(&mut self, at: usize) {
        self.requests[at] += 1;
        self.asked[at] += 1;
        let limiter: Arc<Limiter> = self.regions[at].limiter();
        let claim = Claim { limit: LIMIT, key: limiter.key(LIMIT, &[b"key"]), cost: 1 };
        if let Admission::Allow(charges) = limiter.admit(&[claim], self.now()) {
            self.allowed.entry(charges[0].slot).or_default()[at] += 1;
        }
        if limiter.take_attention() {
            let now = self.now();
            self.regions[at].handle_timeout(now);
            self.drain(at);
        }
    }

    /// Writes are durable at once and heartbeats arrive at once: what is lost and late is rows alone.
    fn drain(&mut self, at: usize) {
        let now = self.now();
        let limits = &mut self.regions[at];
        while let Some(write) = limits.poll_marks() {
            limits.handle_durable(write.sequence, now);
        }
        let sent: Vec<(Recipient, Message)> = std::iter::from_fn(|| limits.poll_transmit()).collect();
        while limits.poll_event().is_some() {}
        for (to, message) in sent {
            let to = (0..REGIONS).find(|&at| region(at) == to.region).expect("a region of the scope");
            match message {
                Message::Heartbeat(_) if to < self.regions.len() => {
                    let _ = self.regions[to].handle_message(&region(at), &node(at), message, now);
                }
                Message::Rows(_) => {
                    let encoded = codec::encode(&message).expect("it encodes");
                    let hash = HASH_KEY.hash(&[&[at as u8, to as u8], &encoded]).0 as u64;
                    self.in_flight.insert(hash, (at, to, message));
                }
                _ => {}
            }
        }
    }

    /// What tells states apart: all that can be seen of them.
    fn key(&self) -> u64 {
        let seen = self.regions.iter().map(|limits| {
            let limiter = limits.limiter();
            limits.explain(LIMIT, limiter.key(LIMIT, &[b"key"]), self.now())
        });
        let seen: Vec<_> = seen.collect();
        let all = (self.round, self.requests, self.asked, self.in_flight.keys(), &self.allowed, seen);
        HASH_KEY.hash(&[format!("{all:?}").as_bytes()]).0 as u64
    }
}

#[test]
fn no_order_of_events_admits_more_than_the_limit() {
    let most: usize = std::env::var("EXHAUSTIVE_STATES").ok().and_then(|most| most.parse().ok()).unwrap_or(3000);
    let mut queue = VecDeque::from([Vec::new()]);
    let mut known = BTreeSet::from([World::new().key()]);
    let (mut fullest, mut lent) = (0, false);
    while let Some(path) = queue.pop_front().filter(|_| known.len() < most) {
        for step in World::after(&path).steps() {
            let mut longer = path.clone();
            longer.push(step);
            let world = World::after(&longer);
            for (slot, allowed) in &world.allowed {
                let total: u64 = allowed.iter().sum();
                assert!(total <= QUOTA, "slot {slot} admitted {allowed:?} after {longer:?}");
                fullest = total.max(fullest);
                lent |= allowed.iter().any(|&allowed| allowed > 1);
            }
            if known.insert(world.key()) {
                queue.push_back(longer);
            }
        }
    }
    println!("{} states, {} of them not followed", known.len(), queue.len());
    assert!(fullest == QUOTA, "nothing was searched");
    assert!(lent || most < 100_000, "no region ever spent what another lent");
}
