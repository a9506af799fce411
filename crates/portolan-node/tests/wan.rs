//! What the limits of a large fleet send between regions, from the messages that nodes really write: 1000 nodes in 20
//! regions, a million keys, a million requests a second, Zipf 1.0. One node of each region runs, the one whose keys are
//! nearest to the average; its 49 neighbours are stood in for, and what it sends counts fifty times.
//!
//! `WAN_ROWS=all cargo test -p portolan-node --test wan -- --nocapture` prints the table of decision 0016.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::Roster;
use portolan_limits::{
    Acknowledgement, Algorithm, Claim, Definition, Key, LimitId, Limiter, Limits, LimitsConfig, Message, Neighbour,
    Ranking, Recovery, Shard, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, Timestamp, WallTime, codec};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const REGIONS: usize = 20;
const NODES: usize = 50;
const KEYS: u64 = 1_000_000;
const REQUESTS: f64 = 1_000_000.0;
const LIMIT: LimitId = LimitId(1);
const HASH_KEY: HashKey = HashKey::new(*b"0123456789abcdef");

/// What a region may send to all others.
const MOST: f64 = 60.0;

/// Rows alone: what `portolan_node` gives its limits.
const BUDGET: ByteSize = ByteSize(5_000_000);

const RTT: Duration = Duration::from_millis(150);
const TICK_MS: u64 = 10;
const WARM_MS: u64 = 2_000;
const MEASURED_MS: u64 = 2_000;

/// Of a packet: IPv4 20, UDP 8, QUIC's short header with a connection id of 8 bytes and a number of 2, its tag 16.
const PACKET: usize = 20 + 8 + 11 + 16;

/// Of each datagram frame in it: type and length (RFC 9221). What leaves for one node at one moment shares a packet.
const FRAME: usize = 3;

/// Longest UDP payload.
const MTU: usize = 1200;

/// The packet that acknowledges another one, with an ACK frame of 8 bytes. None is saved by what goes back anyway.
const ACK: usize = PACKET + 8;

fn region(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at:02}")).expect("a name")
}

fn node(region: &RegionId, number: usize) -> NodeName {
    NodeName::new(&format!("{region}-{number}")).expect("a name")
}

fn roster(region: &RegionId, epoch: u64, numbers: impl Iterator<Item = usize>) -> Roster {
    let mut nodes: Vec<NodeName> = numbers.map(|number| node(region, number)).collect();
    nodes.sort();
    Roster { epoch, nodes }
}

fn at(ms: u64) -> Now {
    Now { mono: Timestamp::from_nanos(ms * 1_000_000), wall: WallTime::from_unix_millis(1_795_000_000_000 + ms) }
}

/// The keys that one node owns, with the part of its requests that asks for them or one before.
struct Owned {
    number: usize,
    keys: Vec<Key>,
    upto: Vec<f64>,
    /// Requests a second for all of them, over all regions.
    rate: f64,
}

impl Owned {
    /// Of the node that owns nearest to the average of the keys for which half of the limit or more is asked.
    fn of_average(limiter: &Limiter, per_second: f64) -> Self {
        let ranking = Ranking::new(&roster(&region(0), 1, 1..=NODES));
        let number_of = |key| {
            let owner = ranking.owner(Shard::of(key)).expect("it has nodes");
            owner.as_str().rsplit('-').next().and_then(|number| number.parse::<usize>().ok()).expect("a number")
        };
        let harmonic: f64 = (1..=KEYS).map(|rank| 1.0 / rank as f64).sum();
        let keys: Vec<(Key, f64, usize)> = (1..=KEYS)
            .map(|rank| {
                let key = limiter.key(LIMIT, &[&rank.to_le_bytes()]);
                (key, REQUESTS / harmonic / rank as f64, number_of(key))
            })
            .collect();
        let pressed = |number: usize| {
            let of_node = keys.iter().filter(|&&(_, rate, of)| of == number && rate * 2.0 >= per_second);
            of_node.count() as f64
        };
        let mean = (1..=NODES).map(pressed).sum::<f64>() / NODES as f64;
        let off = |number: &usize| (pressed(*number) - mean).abs();
        let number = (1..=NODES).min_by(|one, other| off(one).total_cmp(&off(other))).expect("there are nodes");
        let mut owned = Self { number, keys: Vec::new(), upto: Vec::new(), rate: 0.0 };
        for (key, rate, _) in keys.into_iter().filter(|(.., of)| *of == number) {
            owned.rate += rate;
            owned.keys.push(key);
            owned.upto.push(owned.rate);
        }
        owned
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Key {
        let drawn = rng.random_range(0.0..self.rate);
        self.keys[self.upto.partition_point(|upto| *upto <= drawn).min(self.keys.len() - 1)]
    }
}

/// What one node sent to other regions while measured.
#[derive(Default)]
struct Sent {
    packets: u64,
    bytes: u64,
    /// Of messages, by what they are.
    payload: BTreeMap<&'static str, u64>,
}

impl Sent {
    /// Counts what leaves at one moment for each node: as many frames in a packet as fit.
    fn count(&mut self, frames: &BTreeMap<NodeName, Vec<usize>>) {
        for frames in frames.values() {
            let mut room = 0;
            for frame in frames {
                if room < frame + FRAME {
                    (self.packets, self.bytes, room) = (self.packets + 1, self.bytes + PACKET as u64, MTU - 27);
                }
                room -= frame + FRAME;
                self.bytes += (frame + FRAME) as u64;
            }
        }
    }

    /// Megabits a second of a whole region, acknowledgements of what comes in included: as much as goes out.
    fn of_region(&self, bytes: u64) -> f64 {
        (bytes * NODES as u64 * 8) as f64 / (MEASURED_MS as f64 * 1000.0)
    }

    fn total(&self) -> f64 {
        self.of_region(self.bytes + self.packets * ACK as u64)
    }
}

struct World {
    regions: Vec<RegionId>,
    limits: Vec<Limits>,
    owned: Owned,
    mail: BTreeMap<(u64, u64), (usize, usize, Message)>,
    posted: u64,
    sent: Sent,
}

impl World {
    fn new(quota: u64, window: Duration) -> Self {
        let regions: Vec<RegionId> = (0..REGIONS).map(region).collect();
        let algorithm = Algorithm::FixedWindow { quota, window: Window::Length(window) };
        let definition = Definition::new(LIMIT, Name::new("per-user").expect("a name"), algorithm);
        let start = |own: &RegionId, number: usize| {
            let config = LimitsConfig {
                node: node(own, number),
                region: own.clone(),
                neighbours: (1..=NODES).filter(|other| *other != number).map(|other| node(own, other)).collect(),
                rosters: regions.iter().map(|of| (of.clone(), roster(of, 1, [number].into_iter()))).collect(),
                life: 1,
                regions: regions.clone(),
                hash_key: HASH_KEY,
                capacity: 1 << 15,
                worst_rtt: RTT,
                budget: BUDGET,
            };
            let mut limits = Limits::new(config, Recovery::FirstStart, at(0));
            limits.handle_definitions(std::slice::from_ref(&definition), at(0));
            limits
        };
        let owned = Owned::of_average(&start(&regions[0], 1).limiter(), quota as f64 / window.as_secs_f64());
        let limits = regions.iter().map(|own| start(own, owned.number)).collect();
        Self { regions, limits, owned, mail: BTreeMap::new(), posted: 0, sent: Sent::default() }
    }

    /// The other nodes come in: they own their shards from here on.
    fn complete(&mut self, ms: u64) {
        let rosters = self.regions.iter().map(|of| (of.clone(), roster(of, 2, 1..=NODES))).collect();
        self.limits.iter_mut().for_each(|limits| limits.handle_rosters(&rosters, at(ms)));
    }

    fn request(&mut self, ms: u64, rng: &mut ChaCha8Rng) {
        let due = self.owned.rate / REGIONS as f64 * TICK_MS as f64 / 1000.0;
        for limits in &self.limits {
            let limiter = limits.limiter();
            for _ in 0..(due + rng.random_range(0.0..1.0)) as u64 {
                let claim = Claim { limit: LIMIT, key: self.owned.draw(rng), cost: 1 };
                let _ = limiter.admit(&[claim], at(ms));
            }
        }
    }

    fn deliver(&mut self, ms: u64) {
        while let Some(entry) = self.mail.first_entry().filter(|entry| entry.key().0 <= ms) {
            let (from, to, message) = entry.remove();
            let sender = node(&self.regions[from], self.owned.number);
            // Refusals are ordinary while rosters change.
            let _ = self.limits[to].handle_message(&self.regions[from], &sender, message, at(ms));
        }
    }

    /// Hands every message to whom it is for, and counts what crosses between regions.
    fn exchange(&mut self, ms: u64, is_measured: bool) {
        for from in 0..REGIONS {
            self.limits[from].handle_timeout(at(ms));
            while let Some(write) = self.limits[from].poll_marks() {
                self.limits[from].handle_durable(write.sequence, at(ms));
            }
            let mut frames = BTreeMap::<NodeName, Vec<usize>>::new();
            while let Some((to, message)) = self.limits[from].poll_transmit() {
                let target = self.regions.iter().position(|region| *region == to.region).expect("a region");
                if target == from {
                    self.stand_by(from, &to.node.expect("a neighbour"), message, ms);
                    continue;
                }
                let kind = match &message {
                    Message::Heartbeat(_) => "signs of life",
                    Message::Rows(_) | Message::Echo(_) => "rows",
                    Message::Digests(_) | Message::Ask { .. } => "digests",
                    Message::Neighbour(_) => "neighbours",
                };
                let to_node = to.node.expect("rosters are known");
                let length = codec::encode(&portolan_node::Message::Limits(message.clone())).expect("it encodes").len();
                if is_measured {
                    *self.sent.payload.entry(kind).or_default() += length as u64;
                    frames.entry(to_node.clone()).or_default().push(length);
                }
                // A sign of life for a neighbour of the counterpart: that one's comes here instead, from elsewhere.
                let is_for_it = to_node == node(&to.region, self.owned.number);
                if is_for_it || matches!(message, Message::Heartbeat(_)) {
                    self.posted += 1;
                    self.mail.insert((ms + RTT.as_millis() as u64 / 2, self.posted), (from, target, message));
                }
            }
            self.sent.count(&frames);
        }
    }

    /// What a standby does.
    fn stand_by(&mut self, at_region: usize, standby: &NodeName, message: Message, ms: u64) {
        if let Message::Neighbour(Neighbour::Update(update)) = message {
            let answer = Acknowledgement { epoch: update.epoch, life: update.life, through: update.through };
            let answer = Message::Neighbour(Neighbour::Acknowledgement(answer));
            let taken = self.limits[at_region].handle_message(&self.regions[at_region], standby, answer, at(ms));
            assert_eq!(taken, Ok(()));
        }
    }
}

/// Megabits a second that a region sends.
fn measure(quota: u64, window: Duration) -> f64 {
    let mut world = World::new(quota, window);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let first = 500;
    for ms in (0..first + WARM_MS + MEASURED_MS).step_by(TICK_MS as usize) {
        if ms == first {
            world.complete(ms);
        }
        world.deliver(ms);
        if ms > first {
            world.request(ms, &mut rng);
        }
        world.exchange(ms, ms >= first + WARM_MS);
    }
    let sent =
        Sent { packets: world.sent.packets / REGIONS as u64, bytes: world.sent.bytes / REGIONS as u64, ..world.sent };
    let part = |kind| sent.of_region(sent.payload.get(kind).copied().unwrap_or_default() / REGIONS as u64);
    let stats = world.limits[0].stats();
    assert!(world.limits.iter().all(|limits| limits.limiter().active()), "every node shares its region's limits");
    println!(
        "| {quota}/{} s | {} | {:.1} | {:.1} | {:.1} | {:.1} | **{:.1}** |",
        window.as_secs(),
        stats.watched * NODES as u64,
        part("rows"),
        part("signs of life"),
        part("digests"),
        sent.total() - part("rows") - part("signs of life") - part("digests"),
        sent.total(),
    );
    sent.total()
}

#[test]
fn a_thousand_nodes_with_a_million_keys_keep_to_sixty_megabits_a_second_for_each_region() {
    println!(
        "| limit of each key | keys under pressure | rows | signs of life | digests | packets and their acknowledgements | Mb/s |"
    );
    println!("|---|---|---|---|---|---|---|");
    let rows = [(1000, 1), (100, 1), (10, 1), (100, 10)];
    let wanted = if std::env::var_os("WAN_ROWS").is_some() { 4 } else { 2 };
    for &(quota, seconds) in &rows[..wanted] {
        let megabits = measure(quota, Duration::from_secs(seconds));
        assert!(megabits > 1.0 && megabits <= MOST, "{quota} in {seconds} s: {megabits}");
    }
}
