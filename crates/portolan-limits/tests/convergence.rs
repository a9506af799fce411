//! Whatever the network does to messages, regions that go on talking come to hold the same rows.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, Network, definition};
use portolan_limits::{Algorithm, Definition, OnPartition};
use portolan_model::Rate;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn regions_converge_after_loss_repetition_and_reordering(
        seed: u64,
        loss_percent in 0..60u64,
        repeat_percent in 0..50u64,
        jitter_ms in 0..300u64,
    ) {
        let definitions = vec![
            definition(1, "900/h", OnPartition::Static),
            definition(2, "90/h", OnPartition::OPEN),
            definition(3, "9/h", OnPartition::Closed),
        ];
        let mut fleet = Fleet::new(3, definitions, seed);
        fleet.settle();
        fleet.network = Network { delay_ms: 20, jitter_ms, loss_percent, repeat_percent, cut: Vec::new() };
        for _ in 0..300 {
            let (at, limit) = (fleet.seed.below(3) as usize, 1 + fleet.seed.below(3) as u32);
            let key = fleet.seed.below(40);
            fleet.request(at, &[(limit, key)]);
            fleet.run(7);
        }
        fleet.network = Network::default();
        // Until forecasts have faded the last units of a key may go on travelling.
        fleet.run(15_000);
        let digests = |at| fleet.limits(at).slot_digests(fleet.now(at));
        prop_assert!(!digests(0).is_empty());
        prop_assert_eq!(digests(0), digests(1));
        prop_assert_eq!(digests(1), digests(2));
    }
}

/// Overloads a key by so many requests of each region every ten milliseconds, and demands that all of them fall silent.
fn falls_silent(definition: &Definition, load: [usize; 3], seed: u64) {
    let mut fleet = Fleet::new(3, vec![definition.clone()], seed);
    fleet.settle();
    // With each seed the load ends at another moment of a second.
    for _ in 0..500 + seed {
        for (at, requests) in load.into_iter().enumerate() {
            (0..requests).for_each(|_| drop(fleet.request(at, &[(1, 7)])));
        }
        fleet.run(10);
    }
    fleet.run(6000);
    let sent = |fleet: &Fleet| [0, 1, 2].map(|at| fleet.limits(at).stats().rows_sent);
    let before = sent(&fleet);
    fleet.run(5000);
    assert_eq!(sent(&fleet), before, "{load:?} of {:?}, seed {seed}", definition.algorithm);
}

#[test]
fn keys_that_nobody_asks_for_fall_silent() {
    for load in [[3, 0, 0], [3, 3, 3], [1, 1, 0]] {
        falls_silent(&definition(1, "60/s", OnPartition::Static), load, 7);
    }
}

#[test]
fn a_key_falls_silent_that_is_used_on_after_an_overload_far_from_its_limit() {
    let mut fleet = Fleet::new(3, vec![definition(1, "60/s", OnPartition::Static)], 7);
    fleet.settle();
    let mut load = |times: usize, requests: usize, every_ms: u64| {
        for _ in 0..times {
            for at in 0..3 {
                (0..requests).for_each(|_| drop(fleet.request(at, &[(1, 7)])));
            }
            fleet.run(every_ms);
        }
        [0, 1, 2].map(|at| fleet.limits(at).stats().rows_sent)
    };
    let overloaded = load(300, 3, 10);
    assert!(overloaded.iter().all(|rows| *rows > 0), "{overloaded:?}");
    let used_on = load(20, 1, 300);
    assert_eq!(load(20, 1, 300), used_on);
}

#[test]
fn a_key_of_a_long_window_falls_silent_that_nobody_asks_for_since_it_is_used_up() {
    let mut fleet = Fleet::new(3, vec![definition(1, "6/h", OnPartition::Static)], 7);
    fleet.settle();
    for _ in 0..8 {
        (0..3).for_each(|at| drop(fleet.request(at, &[(1, 7)])));
        fleet.run(500);
    }
    fleet.run(15_000);
    let sent = |fleet: &Fleet| [0, 1, 2].map(|at| fleet.limits(at).stats().rows_sent);
    let before = sent(&fleet);
    fleet.run(5000);
    assert_eq!(sent(&fleet), before);
}

#[test]
fn buckets_that_nobody_asks_for_fall_silent() {
    for (count, burst) in [(300, 60), (300, 300), (60, 60)] {
        let rate = Rate { count, per: Duration::from_secs(1) };
        let algorithm = Algorithm::TokenBucket { rate, burst };
        let bucket = Definition { algorithm, ..definition(1, "60/s", OnPartition::Static) };
        for load in [[3, 0, 0], [3, 0, 1], [9, 9, 9]] {
            (3..=4).for_each(|seed| falls_silent(&bucket, load, seed));
        }
    }
}
