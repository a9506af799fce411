//! What it costs to take in rows of other regions: one message of 64 keys under pressure, at 20 regions and 10 000 keys,
//! through the interface that the mesh uses. Each call raises every row, so none is a mere repetition.
//!
//! `cargo bench -p portolan-limits --bench merge`

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use criterion::{Criterion, Throughput};
use portolan_limits::{
    Algorithm, Definition, Demand, Key, LimitId, Limits, LimitsConfig, Message, Recovery, Row, Rows, Scope, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, WallTime};

const LIMIT: LimitId = LimitId(1);
const HASH_KEY: HashKey = HashKey::new(*b"0123456789abcdef");
const REGIONS: usize = 20;
const KEYS: u64 = 10_000;
const ROWS: u64 = 64;
const NOW: Now = Now { mono: portolan_model::Timestamp::ZERO, wall: WallTime::from_unix_millis(1_795_312_345_678) };

fn region(at: usize) -> RegionId {
    RegionId::new(&format!("region-{at:02}")).expect("a name")
}

fn limits() -> Limits {
    let config = LimitsConfig {
        node: NodeName::new("here-1").expect("a name"),
        region: region(0),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life: 1,
        regions: (0..REGIONS).map(region).collect(),
        hash_key: HASH_KEY,
        capacity: KEYS as usize,
        worst_rtt: Duration::from_millis(150),
        budget: ByteSize(1 << 20),
    };
    let mut limits = Limits::new(config, Recovery::FirstStart, NOW);
    let algorithm = Algorithm::FixedWindow { quota: 1_000_000_000, window: Window::Length(Duration::from_secs(60)) };
    limits.handle_definitions(&[Definition::new(LIMIT, Name::new("row").expect("a name"), algorithm)], NOW);
    limits
}

fn message(round: u64) -> Rows {
    let rows = (0..ROWS).map(|at| {
        let number = (round * ROWS + at) % KEYS;
        let row = Row { consumed: round + 1, demand: Demand::new(700.0, 1000.0), ..Row::default() };
        (Key::new(&HASH_KEY, LIMIT, &[&number.to_le_bytes()]), row)
    });
    let regions: Vec<RegionId> = (0..REGIONS).map(region).collect();
    let scope = Scope::of(&HASH_KEY, &regions);
    Rows { scope, limit: LIMIT, slot: NOW.wall.as_unix_millis() / 60_000, number: None, rows: rows.collect() }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(ROWS));
    let (mut limits, mut round) = (limits(), 0u64);
    let senders: Vec<(RegionId, NodeName)> =
        (1..REGIONS).map(|at| (region(at), NodeName::new(&format!("region-{at:02}-1")).expect("a name"))).collect();
    group.bench_function("64 rows", |bench| {
        bench.iter_batched(
            || {
                round += 1;
                (message(round), senders[round as usize % senders.len()].clone())
            },
            |(rows, (region, node))| {
                let _ = black_box(limits.handle_message(&region, &node, Message::Rows(rows), NOW));
                while limits.poll_transmit().is_some() {}
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}
