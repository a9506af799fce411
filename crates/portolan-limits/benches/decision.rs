//! What a decision costs: one claim of one key that has an entry, at 1 k, 1 M and 10 M keys, on one and two threads, beside
//! what a `HashMap` probe and a compare-and-swap cost in the same run.
//!
//! `cargo bench -p portolan-limits --bench decision [-- 1k 1m 10m]`
//!
//! Timed in batches of 64, each thread on a core of its own; of five runs the best is told, since others may use the
//! machine. Keys are drawn before a batch is timed, uniformly: each decision misses the caches at its worst. They are hashed
//! before too, on both sides: the limiter is given the keyed hash that names a counter, and the map hashes that number by
//! its default hasher, as it would for any key that others choose. All entries were charged once before.
//!
//! `decision` is 64 decisions one after the other, each of which finds its entry by itself; `prefetched` asks for all 64
//! entries first, as a request does that knows its keys, and decides then: both are timed. `+ clock` are the same
//! where the clocks are read before each decision, which ends what a processor would do of several at a time: a request
//! that owes one limit and has nothing else to do between its key and its decision.

use std::{
    collections::{BTreeMap, HashMap},
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant, SystemTime},
};

use criterion::Criterion;
use portolan_limits::{
    Admission, Algorithm, Charge, Claim, Definition, Key, LimitId, Limiter, Limits, LimitsConfig, Recovery, Window,
};
use portolan_model::{ByteSize, HashKey, Name, NodeName, Now, RegionId, Timestamp, WallTime};
use rustix::thread::{CpuSet, sched_setaffinity};

const LIMIT: LimitId = LimitId(1);
const BATCH: usize = 64;
const RUNS: usize = 5;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let sizes = [("1k", 1_000), ("1m", 1_000_000), ("10m", 10_000_000)];
    println!(
        "ns, p50 and p99        {:>19} {:>19} {:>19} {:>19}",
        "decision", "prefetched", "map of 8 bytes", "map of 64 bytes"
    );
    println!("keys threads {:>107}", "to map: decision, prefetched");
    for (name, keys) in sizes {
        if chosen.is_empty() || chosen.iter().any(|wanted| wanted == name) {
            let table = Table::new(keys);
            for threads in [1, 2] {
                let asks = [Table::decide, Table::prefetch_and_decide, Table::probe_narrow, Table::probe_wide];
                let [decision, prefetched, narrow, wide] = best(threads, &table, asks);
                let [alone, ahead] = [decision, prefetched].map(|ours| ours.p50 / narrow.p50);
                println!(
                    "{name:>4} {threads:>7}         {decision} {prefetched} {narrow} {wide}  {alone:.2} {ahead:.2}"
                );
                let asks = [Table::decide_in_turn, Table::prefetch_and_decide_in_turn, Table::probe_in_turn];
                let [decision, prefetched, narrow] = best(threads, &table, asks);
                println!("{name:>4} {threads:>7} + clock {decision} {prefetched} {narrow}");
            }
            println!(
                "{name:>4}  {:.1} bytes per key, {} per charge",
                table.resident / keys as f64,
                size_of::<Charge>()
            );
        }
    }
    single(&mut Criterion::default().without_plots());
}

/// The parts of a decision, and what comes before it.
fn single(criterion: &mut Criterion) {
    let table = Table::new(1000);
    let claim = [Claim { limit: LIMIT, key: table.keys[0], cost: 1 }];
    criterion.bench_function("decision of a key in the cache", |bencher| {
        bencher.iter(|| table.admit(&claim));
    });
    let two = [claim[0], Claim { key: table.keys[1], ..claim[0] }];
    criterion.bench_function("decision of two keys in the cache", |bencher| {
        bencher.iter(|| table.admit(&two));
    });
    criterion.bench_function("key of one part of 12 bytes", |bencher| {
        bencher.iter(|| table.limiter.key(LIMIT, &[black_box(b"user-1234567")]));
    });
}

const NOW: Now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(1_795_000_000_500) };

/// The same keys in the limiter and in a map.
struct Table {
    _limits: Limits,
    /// Bytes that the limiter took.
    resident: f64,
    limiter: std::sync::Arc<Limiter>,
    keys: Vec<Key>,
    /// One word per key.
    narrow: HashMap<Key, AtomicU64>,
    /// As much per key as an entry of the limiter has.
    wide: HashMap<Key, [AtomicU64; 8]>,
}

impl Table {
    fn new(count: u64) -> Self {
        let algorithm = Algorithm::FixedWindow { quota: 1 << 36, window: Window::Length(Duration::from_secs(1)) };
        let definition = Definition::new(LIMIT, Name::new("decision").expect("a name"), algorithm);
        let before = resident();
        let limits = active(usize::try_from(count).expect("64 bits"), &definition);
        let resident = resident() - before;
        let limiter = limits.limiter();
        let keys: Vec<Key> = (0..count).map(|number| limiter.key(LIMIT, &[&number.to_le_bytes()])).collect();
        for &key in &keys {
            assert!(matches!(limiter.admit(&[Claim { limit: LIMIT, key, cost: 1 }], NOW), Admission::Allow(_)));
        }
        assert_eq!(limits.stats().overflowed, 0, "every key has an entry");
        let narrow: HashMap<Key, AtomicU64> = keys.iter().map(|&key| (key, AtomicU64::new(0))).collect();
        let wide: HashMap<Key, [AtomicU64; 8]> = keys.iter().map(|&key| (key, Default::default())).collect();
        for key in &keys {
            charge(&narrow[key]);
            charge(&wide[key][1]);
        }
        Self { _limits: limits, resident, limiter, keys, narrow, wide }
    }

    fn decide(&self, claims: &[Claim]) {
        claims.iter().for_each(|claim| self.admit(std::slice::from_ref(claim)));
    }

    fn prefetch_and_decide(&self, claims: &[Claim]) {
        claims.iter().for_each(|claim| self.limiter.prefetch(claim.key));
        self.decide(claims);
    }

    fn decide_in_turn(&self, claims: &[Claim]) {
        in_turn(claims, |claim| {
            read_clocks();
            self.decide(claim);
        });
    }

    fn prefetch_and_decide_in_turn(&self, claims: &[Claim]) {
        in_turn(claims, |claim| {
            self.limiter.prefetch(claim[0].key);
            read_clocks();
            self.decide(claim);
        });
    }

    fn probe_in_turn(&self, claims: &[Claim]) {
        in_turn(claims, |claim| {
            read_clocks();
            self.probe_narrow(claim);
        });
    }

    fn admit(&self, claims: &[Claim]) {
        let admission = self.limiter.admit(claims, NOW);
        assert!(matches!(black_box(&admission), Admission::Allow(_)));
    }

    fn probe_narrow(&self, claims: &[Claim]) {
        claims.iter().for_each(|claim| charge(&self.narrow[&claim.key]));
    }

    fn probe_wide(&self, claims: &[Claim]) {
        claims.iter().for_each(|claim| charge(&self.wide[&claim.key][1]));
    }
}

/// Bytes of this process in memory (proc_pid_statm(5)); pages are of 4 KiB on the machines that this runs on.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).map_or(f64::NAN, |pages: f64| pages * 4096.0)
}

fn in_turn(claims: &[Claim], ask: impl FnMut(&[Claim])) {
    claims.chunks(1).for_each(ask);
}

/// What a request does between its keys and its decision, at the least.
fn read_clocks() {
    black_box((Instant::now(), SystemTime::now()));
}

fn charge(counter: &AtomicU64) {
    let seen = counter.load(Ordering::Relaxed);
    black_box(counter.compare_exchange(seen, seen + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok());
}

/// The limits of a lone region, whose first horizon is durable.
fn active(capacity: usize, definition: &Definition) -> Limits {
    let region = RegionId::new("here").expect("a name");
    let config = LimitsConfig {
        node: NodeName::new("here-1").expect("a name"),
        region: region.clone(),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life: 1,
        regions: vec![region],
        hash_key: HashKey::new(*b"0123456789abcdef"),
        capacity,
        worst_rtt: Duration::ZERO,
        budget: ByteSize(1 << 20),
    };
    let mut limits = Limits::new(config, Recovery::FirstStart, NOW);
    limits.handle_definitions(std::slice::from_ref(definition), NOW);
    while let Some(write) = limits.poll_marks() {
        limits.handle_durable(write.sequence, NOW);
    }
    limits
}

#[derive(Clone, Copy)]
struct Figures {
    p50: f64,
    p99: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>9.1} {:>9.1}", self.p50, self.p99)
    }
}

/// The best of some runs of each, taken in turn, of the slowest thread.
fn best<const N: usize>(threads: u64, table: &Table, asks: [fn(&Table, &[Claim]); N]) -> [Figures; N] {
    let run = |ask| {
        let slowest = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || on_core(thread, table, ask))).collect();
            let figures = threads.into_iter().map(|thread| thread.join().expect("it does not panic"));
            figures.max_by(|one, other| one.p50.total_cmp(&other.p50))
        });
        slowest.expect("there is a thread")
    };
    let runs: Vec<[Figures; N]> = (0..RUNS).map(|_| asks.map(run)).collect();
    std::array::from_fn(|at| {
        let of_one = runs.iter().map(|run| run[at]);
        of_one.min_by(|one, other| one.p50.total_cmp(&other.p50)).expect("there is a run")
    })
}

fn on_core(core: u64, table: &Table, ask: fn(&Table, &[Claim])) -> Figures {
    let mut set = CpuSet::new();
    set.set(usize::try_from(core).expect("a small number"));
    sched_setaffinity(None, &set).expect("the core is there");
    let mut seed = 0x9e37_79b9_7f4a_7c15 ^ (core + 1);
    let mut draw = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = (u128::from(seed) * table.keys.len() as u128) >> 64;
        Claim { limit: LIMIT, key: table.keys[usize::try_from(at).expect("below the length")], cost: 1 }
    };
    let mut batch = [Claim { limit: LIMIT, key: table.keys[0], cost: 1 }; BATCH];
    let mut times = Vec::with_capacity(BATCHES);
    for _ in 0..BATCHES {
        batch.fill_with(&mut draw);
        let begin = Instant::now();
        ask(table, &batch);
        times.push(begin.elapsed().as_nanos());
    }
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100] as f64 / BATCH as f64;
    Figures { p50: at(50), p99: at(99) }
}

const BATCHES: usize = 20_000;
