//! What is stated of limits, held against the sequences that come closest to it: each passes what a region by itself, a
//! share, or one state of the network would lead to expect.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Bounds, Definition, LimitId, OnPartition, Promise, Window};
use portolan_model::Name;

fn fixed(quota: u64, seconds: u64) -> Algorithm {
    Algorithm::FixedWindow { quota, window: Window::Length(Duration::from_secs(seconds)) }
}

fn definition(algorithm: Algorithm) -> Definition {
    Definition::new(LimitId(1), Name::new("total").expect("a name"), algorithm)
}

/// Regions with one limit, at the begin of a slot of `window_ms`, and what is stated of it.
fn started(definition: Definition, regions: usize, window_ms: u64) -> (Fleet, Bounds) {
    let promise = Promise {
        on_partition: definition.on_partition,
        borrow_wait: definition.borrow_wait,
        ..Promise::strict(definition.algorithm.clone())
    };
    let stated = Bounds::of(&promise, &portolan_limits::Fleet::new(regions, Duration::from_millis(100), 1));
    let mut fleet = Fleet::new(regions, vec![definition], 5);
    fleet.settle();
    next_slot(&mut fleet, window_ms);
    (fleet, stated)
}

/// Moves to the first millisecond of the next slot.
fn next_slot(fleet: &mut Fleet, window_ms: u64) {
    fleet.run(window_ms - fleet.now(0).wall.as_unix_millis() % window_ms);
}

/// Requests at once in a region, all of one key; how many passed.
fn burst(fleet: &mut Fleet, at: usize, requests: u64) -> u64 {
    let passes = |fleet: &mut Fleet| matches!(fleet.request(at, &[(1, 1)]), Some(Admission::Allow(_)));
    (0..requests).filter(|_| passes(fleet)).count() as u64
}

#[test]
fn a_clock_that_steps_makes_three_windows_of_one_region_meet_in_one_span() {
    let (mut fleet, stated) = started(definition(fixed(100, 1)), 1, 1000);
    fleet.run(950);
    let mut passed = burst(&mut fleet, 0, 150);
    fleet.regions[0].clock_ms += 450;
    fleet.run(10);
    passed += burst(&mut fleet, 0, 150);
    fleet.run(600);
    passed += burst(&mut fleet, 0, 150);
    // Within 610 ms.
    assert_eq!(passed, 300);
    assert!(stated.skewed.is_some_and(|bound| passed <= bound.units));
}

#[test]
fn the_estimate_of_a_sliding_window_is_the_whole_limit_in_each_region_that_is_open_and_cut_off() {
    let sliding = Algorithm::SlidingWindow { quota: 30, window: Duration::from_secs(1) };
    let open = Definition { on_partition: OnPartition::OPEN, ..definition(sliding) };
    let (mut fleet, stated) = started(open, 3, 1000);
    fleet.network.cut = (0..3).flat_map(|from| (0..3).map(move |to| (from, to))).filter(|(a, b)| a != b).collect();
    fleet.run(2000);
    let passed: u64 = (0..3).map(|at| burst(&mut fleet, at, 40)).sum();
    assert_eq!(passed, 90);
    assert!(stated.estimate.is_some_and(|bound| passed <= bound.units));
}

#[test]
fn a_region_that_lent_its_share_refuses_more_than_the_others_shares_when_demand_comes_back() {
    let (mut fleet, stated) = started(definition(fixed(300, 1)), 3, 1000);
    for _ in 0..600 {
        burst(&mut fleet, 0, 3);
        fleet.run(5);
    }
    let passed = burst(&mut fleet, 1, 300);
    let refused = 300 - passed;
    // Its share is 100.
    assert!(refused > 200, "{refused}");
    assert!(refused <= stated.healthy.refused_wrongly.units, "{refused}");
    // Nor does it come back after a cut in that slot.
    assert!(refused <= stated.partition.refused_wrongly.units, "{refused}");
}

#[test]
fn at_the_end_of_a_window_no_request_waits_for_a_loan() {
    let waiting = Definition { borrow_wait: Duration::from_secs(1), ..definition(fixed(12, 1)) };
    let (mut fleet, stated) = started(waiting, 3, 1000);
    fleet.run(1960);
    fleet.refused.clear();
    burst(&mut fleet, 2, 12);
    let refused = fleet.refusals(2, Some("exhausted"));
    assert!(refused > 0);
    assert!(refused <= stated.healthy.refused_wrongly.units, "{refused}");
}

#[test]
fn a_restart_costs_a_key_that_was_spent_fast_more_than_a_tenth() {
    let (mut fleet, stated) = started(definition(fixed(3000, 60)), 1, 60_000);
    let spend = |fleet: &mut Fleet, most: u64| {
        let mut passed = 0;
        for _ in 0..400 {
            passed += burst(fleet, 0, most - passed);
            fleet.run(5);
        }
        passed
    };
    let before = spend(&mut fleet, 700);
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    let after = spend(&mut fleet, 4000);
    let lost = 3000 - before - after;
    assert!(lost > 300, "{lost} of 3000 after {before}");
    assert!(lost <= stated.restart.units, "{lost}");
}
