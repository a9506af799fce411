//! Worker threads share one limiter: together they never admit more than the share.

mod fleet;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use fleet::{Fleet, Seed, definition};
use portolan_limits::{Admission, Claim, Definition, Key, LimitId, Limiter, OnPartition};
use portolan_model::{Now, Timestamp};

const THREADS: u64 = 4;
const ATTEMPTS: u64 = 20_000;

type Counts = BTreeMap<(LimitId, Key, u64), u64>;

/// Lets threads ask for two of `keys` at random while the clock of each runs through `windows` of one second, and
/// returns what was admitted. All slots lie under the first durable horizon.
fn storm(definitions: &[Definition], keys: u64, windows: u64) -> Counts {
    let mut fleet = Fleet::new(1, definitions.to_vec(), 3);
    fleet.settle();
    let limiter = Arc::clone(&fleet.regions[0].limiter);
    let start = fleet.now(0);
    let total = Mutex::new(Counts::new());
    let ids: Vec<LimitId> = definitions.iter().map(|definition| definition.id).collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (limiter, ids, total) = (&limiter, &ids, &total);
            scope.spawn(move || {
                let counts = work(limiter, ids, keys, windows, start, Seed(thread));
                let mut total = total.lock().expect("no thread panicked");
                counts.into_iter().for_each(|(counter, count)| *total.entry(counter).or_default() += count);
            });
        }
    });
    total.into_inner().expect("no thread panicked")
}

fn work(limiter: &Limiter, ids: &[LimitId], keys: u64, windows: u64, start: Now, mut seed: Seed) -> Counts {
    let mut counts = Counts::new();
    for attempt in 0..ATTEMPTS {
        let elapsed = Duration::from_millis(attempt * windows * 1000 / ATTEMPTS);
        let now = Now { mono: Timestamp::ZERO + elapsed, wall: start.wall + elapsed };
        let claims: Vec<Claim> = ids
            .iter()
            .map(|&limit| Claim { limit, key: limiter.key(limit, &[&seed.below(keys).to_le_bytes()]), cost: 1 })
            .collect();
        if let Admission::Allow(charges) = limiter.admit(&claims, now) {
            for (claim, charge) in claims.iter().zip(charges) {
                *counts.entry((claim.limit, claim.key, charge.slot)).or_default() += 1;
            }
        }
    }
    counts
}

fn busiest(counts: &Counts, limit: u32) -> u64 {
    counts.iter().filter(|((id, ..), _)| id.0 == limit).map(|(_, &count)| count).max().unwrap_or(0)
}

#[test]
fn threads_share_one_limit_exactly() {
    let counts = storm(&[definition(1, "1000/s", OnPartition::Static)], 1, 2);
    assert_eq!(busiest(&counts, 1), 1000);
}

#[test]
fn a_refusal_by_one_limit_gives_back_the_others_and_admits_none_in_excess() {
    let limits = [
        definition(1, "5000/s", OnPartition::Static),
        definition(2, "300/s", OnPartition::Static),
        definition(3, "40/s", OnPartition::Static),
    ];
    let counts = storm(&limits, 3, 2);
    assert_eq!((busiest(&counts, 3), busiest(&counts, 2) <= 300), (40, true));
    // Not slot by slot: where threads cross a boundary one request may be charged to two slots, and says so.
    let total = |limit| counts.iter().filter(|((id, ..), _)| id.0 == limit).map(|(_, count)| count).sum::<u64>();
    assert_eq!((total(1), total(2)), (total(3), total(3)), "all limits were charged alike");
}

#[test]
fn keys_beyond_the_table_share_a_counter_and_none_gets_more_than_the_limit() {
    let counts = storm(&[definition(1, "5/s", OnPartition::Static)], 2000, 2);
    assert!(counts.len() > 300, "most keys are served");
    assert_eq!(busiest(&counts, 1), 5);
}

#[test]
fn entries_change_their_keys_under_load_without_losing_a_charge() {
    // Slots of 20 ms die while threads still ask for keys of them, and the table is far too small for all keys.
    let counts = storm(&[definition(1, "3/20ms", OnPartition::Static)], 3000, 2);
    assert!(counts.len() > 3000);
    assert_eq!(busiest(&counts, 1), 3);
}
