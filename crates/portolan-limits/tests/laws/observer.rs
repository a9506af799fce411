//! A region that is told things, and what can be read from it; and histories of regions that write only their own row.

use std::{collections::BTreeMap, time::Duration};

use portolan_limits::{
    Algorithm, Definition, Demand, Key, LimitId, Limits, LimitsConfig, Loan, Message, Recovery, Rejected, Row, Rows,
    Scope, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, Timestamp, WallTime};
use proptest::{collection::vec, prelude::*};

pub const REGIONS: usize = 4;
pub const KEYS: u64 = 5;
pub const LIMIT: LimitId = LimitId(1);
pub const QUOTA: u64 = 400;
pub const WINDOW: Duration = Duration::from_secs(3600);
const HASH_KEY: HashKey = HashKey::new([7; 16]);

/// Half an hour into a slot.
pub const START: Now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(1_795_312_800_000 + 1_800_000) };

/// One cell that a region raises by so much: its own spend, what it gave back, or what it lent to another.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub region: usize,
    pub key: u64,
    pub field: Field,
    pub by: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Consumed,
    Refunded,
    Lent(usize),
}

/// What can be read of a slot: per key and region what was consumed, lent and borrowed; and the digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub keys: Vec<Vec<(u64, u64, u64)>>,
    pub digests: Vec<u64>,
}

pub fn region(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at}")).expect("a name")
}

pub fn scope() -> Scope {
    Scope::of(&HASH_KEY, &(0..REGIONS).map(region).collect::<Vec<RegionId>>())
}

pub fn key(key: u64) -> Key {
    Key::new(&HASH_KEY, LIMIT, &[&key.to_le_bytes()])
}

pub fn slot(now: Now) -> u64 {
    now.wall.as_unix_millis() / WINDOW.as_millis() as u64
}

pub fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, wall: now.wall + by }
}

/// The one node of a region.
pub fn node(at: usize) -> NodeName {
    NodeName::new(&format!("{}-1", region(at))).expect("a name")
}

/// The last region of the scope, started for the first time; the others tell it things.
pub fn observer(now: Now) -> Limits {
    let config = LimitsConfig {
        node: node(REGIONS - 1),
        region: region(REGIONS - 1),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life: 1,
        regions: (0..REGIONS).map(region).collect(),
        hash_key: HASH_KEY,
        capacity: 256,
        worst_rtt: Duration::from_millis(150),
        budget: ByteSize(1 << 20),
    };
    let mut limits = Limits::new(config, Recovery::FirstStart, now);
    let algorithm = Algorithm::FixedWindow { quota: QUOTA, window: Window::Length(WINDOW) };
    limits.handle_definitions(&[Definition::new(LIMIT, Name::new("limit").expect("a name"), algorithm)], now);
    drain(&mut limits, now);
    limits
}

/// Lets the driver's part happen: writes are durable at once, messages go nowhere.
pub fn drain(limits: &mut Limits, now: Now) {
    while let Some(write) = limits.poll_marks() {
        limits.handle_durable(write.sequence, now);
    }
    while limits.poll_transmit().is_some() {}
    while limits.poll_event().is_some() {}
}

pub fn tell(limits: &mut Limits, from: usize, message: Message, now: Now) -> Result<(), Rejected> {
    let result = limits.handle_message(&region(from), &node(from), message, now);
    drain(limits, now);
    result
}

pub fn state(limits: &Limits, now: Now) -> State {
    let of_key = |at: u64| {
        let usage = limits.explain(LIMIT, key(at), now).expect("the limit is defined");
        // The observer's own row is its own affair.
        let others = usage.regions.iter().take(REGIONS - 1);
        others.map(|region| (region.consumed, region.lent, region.borrowed)).collect()
    };
    let digests = limits.slot_digests(now).iter().map(|of| of.digest).collect();
    State { keys: (0..KEYS).map(of_key).collect(), digests }
}

/// Random histories of the other regions.
pub fn writes() -> impl Strategy<Value = Vec<Write>> {
    let others = REGIONS - 1;
    // Loans to the observer itself would make it act; they are met in `tests/rows`.
    let field = prop_oneof![
        3 => Just(Field::Consumed),
        1 => Just(Field::Refunded),
        2 => (1..others).prop_map(Field::Lent),
    ];
    let write = (0..others, 0..KEYS, field, 1..40u64).prop_map(move |(region, key, field, by)| {
        // Nobody lends to itself: the receiver is so many regions further.
        let field = if let Field::Lent(further) = field { Field::Lent((region + further) % others) } else { field };
        Write { region, key, field, by }
    });
    vec(write, 1..80)
}

/// The whole rows that a region tells after each of its writes, in the order of the writes.
pub fn told(writes: &[Write], slot: u64) -> Vec<(usize, Message)> {
    let mut rows = vec![vec![Row::default(); KEYS as usize]; REGIONS];
    let mut messages = Vec::new();
    for write in writes {
        let row = &mut rows[write.region][write.key as usize];
        match write.field {
            Field::Consumed => row.consumed += write.by,
            // Nobody gives back more than it took.
            Field::Refunded => row.refunded = (row.refunded + write.by).min(row.consumed),
            Field::Lent(to) => {
                // Both are joined alike, and no key has both.
                let loan = if write.key % 2 == 0 { Loan::Units } else { Loan::Rate };
                let at = row.lent.iter().position(|&(_, of, _)| usize::from(of) == to);
                let at = at.unwrap_or_else(|| {
                    row.lent.push((loan, to as u8, 0));
                    row.lent.len() - 1
                });
                row.lent[at].2 += write.by;
            }
        }
        messages.push((write.region, one_row(slot, write.key, row.clone())));
    }
    messages
}

pub fn one_row(slot: u64, at: u64, row: Row) -> Message {
    Message::Rows(Rows {
        scope: scope(),
        limit: LIMIT,
        slot,
        number: None,
        rows: vec![(key(at), Row { demand: Demand::default(), ..row })],
    })
}
