//! Messages to a region's limits, from a peer that may send anything. The region never panics, never admits more than a
//! whole limit whatever it is told, and sends nothing that does not read back or fit a datagram.

use std::{collections::BTreeMap, time::Duration};

use portolan_limits::{
    Admission, Algorithm, Claim, Definition, LimitId, Limits, LimitsConfig, Message, OnPartition, Recovery, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, Timestamp, WallTime, codec};

/// Units per slot of every limit here.
const QUOTA: u64 = 12;

/// Largest datagram that the mesh carries.
const DATAGRAM: usize = 1150;

/// Milliseconds of one step of a tag.
const STEP_MS: u64 = 8;

/// Records of an input are messages; the tag says who sends one, and how much time passes before. Returns how many were
/// taken in.
pub fn limits_messages(bytes: &[u8]) -> usize {
    let regions = regions();
    let mut now = start();
    let mut limits = boot(0, now);
    let (mut allowed, mut taken) = (BTreeMap::new(), 0);
    for (tag, record) in super::records(bytes) {
        now = later(now, Duration::from_millis(u64::from(tag) * STEP_MS));
        if limits.poll_timeout().is_some_and(|timeout| timeout <= now.mono) {
            limits.handle_timeout(now);
        }
        if let Ok(message) = codec::decode::<Message>(record) {
            let from = &regions[1 + usize::from(tag) % 2];
            taken += usize::from(limits.handle_message(from, &node(from), message, now).is_ok());
        }
        drain(&mut limits, now);
        spend(&limits, now, &mut allowed);
    }
    taken
}

/// An input as three regions under load make it: what the other two say to the first within two seconds.
pub fn limits_conversation() -> Vec<u8> {
    let mut now = start();
    let mut fleet: Vec<Limits> = (0..3).map(|at| boot(at, now)).collect();
    let (mut input, mut said_at) = (Vec::new(), now);
    let names = regions();
    for _ in 0..200 {
        now = later(now, Duration::from_millis(10));
        let mut mail = Vec::new();
        for (at, limits) in fleet.iter_mut().enumerate() {
            (0..at).for_each(|_| spend(limits, now, &mut BTreeMap::new()));
            limits.handle_timeout(now);
            mail.extend(drain(limits, now).into_iter().map(|(to, message)| (at, to, message)));
        }
        for (from, to, message) in mail {
            let to = names.iter().position(|name| *name == to).expect("a region of the scope");
            if to == 0 {
                let steps = now.mono.since(said_at.mono).as_millis() as u64 / (2 * STEP_MS);
                said_at = later(said_at, Duration::from_millis(2 * STEP_MS * steps));
                super::record(&mut input, (2 * steps) as u8 + (from - 1) as u8, &message);
            }
            // Refused where a slot ends while it is on its way.
            let _ = fleet[to].handle_message(&names[from], &node(&names[from]), message, now);
        }
    }
    input
}

fn regions() -> [RegionId; 3] {
    ["ap-southeast", "eu-west", "us-east"].map(|name| RegionId::new(name).expect("a name"))
}

fn node(region: &RegionId) -> NodeName {
    NodeName::new(&format!("{}-1", region.as_str())).expect("a name")
}

fn start() -> Now {
    Now { mono: Timestamp::ZERO + Duration::from_secs(1), wall: WallTime::from_unix_millis(1_795_000_000_000) }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, wall: now.wall + by }
}

fn boot(at: usize, now: Now) -> Limits {
    let regions = regions();
    let config = LimitsConfig {
        node: node(&regions[at]),
        region: regions[at].clone(),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life: 1,
        regions: regions.to_vec(),
        hash_key: HashKey::new([7; 16]),
        capacity: 64,
        worst_rtt: Duration::from_millis(150),
        budget: ByteSize(1 << 20),
    };
    let mut limits = Limits::new(config, Recovery::FirstStart, now);
    limits.handle_definitions(&definitions(), now);
    drain(&mut limits, now);
    limits
}

fn definitions() -> Vec<Definition> {
    let limit = |id: u32, seconds: u64, on_partition| {
        let algorithm = Algorithm::FixedWindow { quota: QUOTA, window: Window::Length(Duration::from_secs(seconds)) };
        Definition { on_partition, ..Definition::new(LimitId(id), Name::new("limit").expect("a name"), algorithm) }
    };
    vec![
        limit(1, 1, OnPartition::Static),
        limit(2, 60, OnPartition::Static),
        limit(3, 1, OnPartition::Open { cap: None }),
        limit(4, 1, OnPartition::Closed),
    ]
}

/// Carries out what the state machine wants; writes are durable at once.
fn drain(limits: &mut Limits, now: Now) -> Vec<(RegionId, Message)> {
    let mut sent = Vec::new();
    while let Some(write) = limits.poll_marks() {
        limits.handle_durable(write.sequence, now);
    }
    while let Some((to, message)) = limits.poll_transmit() {
        let encoded = codec::encode(&message).expect("own messages encode");
        assert!(encoded.len() < DATAGRAM, "{} bytes", encoded.len());
        assert_eq!(codec::decode::<Message>(&encoded).expect("own messages decode"), message);
        sent.push((to.region, message));
    }
    while limits.poll_event().is_some() {}
    sent
}

fn spend(limits: &Limits, now: Now, allowed: &mut BTreeMap<(LimitId, u64), u64>) {
    let limiter = limits.limiter();
    for limit in (1..=4).map(LimitId) {
        let claim = Claim { limit, key: limiter.key(limit, &[b"key"]), cost: 1 };
        if let Admission::Allow(charges) = limiter.admit(&[claim], now) {
            let count = allowed.entry((limit, charges[0].slot)).or_default();
            *count += 1;
            assert!(*count <= QUOTA, "{limit:?} admitted {count} in slot {}", charges[0].slot);
        }
    }
}
