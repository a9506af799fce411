//! One regression test per rule that keeps the bound. Each rule answers a counter-example; the number is the rule's in
//! the design. Rules 11 (what `open` bounds) and 13 (silence is not absence) are in `policies.rs`, rule 10 (the word and
//! the eviction) is also in `threads.rs`.

mod fleet;

use std::time::Duration;

use fleet::{Fleet, definition};
use portolan_limits::{Admission, Definition, DenyReason, OnPartition, Recovery};

const STATIC: OnPartition = OnPartition::Static;

fn fleet(rate: &str) -> Fleet {
    let mut fleet = Fleet::new(2, vec![definition(1, rate, STATIC)], 5);
    fleet.settle();
    fleet
}

/// Moves to the first millisecond of the next slot, so that a test stays inside one.
fn next_slot(fleet: &mut Fleet, window_ms: u64) {
    fleet.run(window_ms - fleet.now(0).wall.as_unix_millis() % window_ms);
}

/// Asks until refused and returns how many were admitted; `Wait` is given 20 ms, as the proxy does.
fn spend_all(fleet: &mut Fleet, at: usize) -> u64 {
    let mut admitted = 0;
    for _ in 0..10_000 {
        match fleet.request(at, &[(1, 1)]).expect("the region runs") {
            Admission::Allow(_) => admitted += 1,
            Admission::Deny(_) => return admitted,
            Admission::Wait(_) => fleet.run(20),
        }
    }
    panic!("no refusal after {admitted} admissions");
}

fn refusal(fleet: &mut Fleet, at: usize) -> Option<(DenyReason, Duration)> {
    match fleet.request(at, &[(1, 1)]) {
        Some(Admission::Deny(denial)) => Some((denial.reason, denial.retry_after)),
        _ => None,
    }
}

#[test]
fn rule_1_the_oracle_counts_verdicts_because_rows_hide_a_second_owner() {
    let mut fleet = fleet("20/60s");
    next_slot(&mut fleet, 60_000);
    let first = spend_all(&mut fleet, 0) + spend_all(&mut fleet, 1);
    fleet.crash(0);
    fleet.boot(0, Recovery::FirstStart);
    fleet.run(20);
    let again = spend_all(&mut fleet, 0);
    fleet.run(2000);
    let rows: u64 = fleet.limits(1).overview(fleet.now(1))[0].spent.iter().map(|(_, spent)| spent).sum();
    let seen = fleet.busiest(1);
    assert!(rows <= 20 && seen > 20 && seen == first + again, "the ledger saw {rows}, clients saw {seen}");
}

#[test]
fn rule_9_a_region_whose_shares_another_process_took_over_spends_nothing_more() {
    let mut fleet = fleet("2000/60s");
    let before = fleet.regions[0].limiter.clone();
    assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Allow(_))));
    fleet.regions[0].limits.as_mut().expect("it runs").fence();
    for _ in 0..10 {
        fleet.run(1000);
        assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Wait(_))));
        assert!(!before.active(), "limiters of before the fence stop too");
    }
    fleet.define(vec![Definition { generation: 2, ..definition(1, "3000/60s", STATIC) }]);
    fleet.run(1000);
    assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Wait(_))));
}

#[test]
fn rule_2_and_3_a_changed_count_carries_the_spend_over_and_gives_the_larger_of_both_at_most() {
    let check = |from: &str, to: &str, more: u64| {
        let mut fleet = fleet(from);
        next_slot(&mut fleet, 60_000);
        let before = spend_all(&mut fleet, 0);
        fleet.define(vec![Definition { generation: 2, ..definition(1, to, STATIC) }]);
        assert_eq!((before, spend_all(&mut fleet, 0)), (10, more));
    };
    check("20/60s", "30/60s", 5);
    check("20/60s", "10/60s", 0);
}

#[test]
fn rule_2_and_3_a_crash_between_two_changes_of_the_count_forgets_no_spend() {
    let with = |generation, rate| vec![Definition { generation, ..definition(1, rate, STATIC) }];
    let mut fleet = fleet("2000/60s");
    next_slot(&mut fleet, 60_000);
    for _ in 0..40 {
        fleet.request(0, &[(1, 1)]);
    }
    fleet.define(with(2, "20/60s"));
    fleet.run(20);
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    spend_all(&mut fleet, 0);
    fleet.define(with(3, "2000/60s"));
    spend_all(&mut fleet, 0);
    assert!(fleet.busiest(1) <= 1000, "{}", fleet.busiest(1));
}

#[test]
fn a_clock_that_is_set_forward_by_months_shuts_a_key_for_a_sweep_of_the_table_at_most() {
    let check = |days: i64| {
        let mut fleet = Fleet::new(1, vec![definition(1, "20/s", STATIC)], 5);
        fleet.settle();
        for _ in 0..30 {
            fleet.request(0, &[(1, 1)]);
            fleet.run(100);
        }
        fleet.regions[0].clock_ms += days * 86_400_000;
        fleet.run(80_000);
        next_slot(&mut fleet, 1000);
        let first = spend_all(&mut fleet, 0);
        next_slot(&mut fleet, 1000);
        assert_eq!((first, spend_all(&mut fleet, 0)), (20, 20), "{days} days");
    };
    [1, 20, 50, 60, 90, 96, 9490].into_iter().for_each(check);
}

#[test]
fn rule_4_a_first_start_has_its_full_share_at_once() {
    let mut fleet = Fleet::new(2, vec![definition(1, "20/s", STATIC)], 5);
    assert!(!fleet.regions[0].limiter.active(), "not before the first horizon is durable");
    fleet.settle();
    assert_eq!(spend_all(&mut fleet, 0), 10);
}

#[test]
fn rule_4_no_slot_is_spent_that_no_durable_horizon_covers() {
    let mut fleet = Fleet::new(1, vec![definition(1, "20/s", STATIC)], 5);
    assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Wait(_))));
    fleet.settle();
    assert_eq!(spend_all(&mut fleet, 0), 20);
    fleet.regions[0].disk_ms = 10_000;
    fleet.run(3500);
    assert!(
        matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Wait(_))),
        "the disk hangs for longer than the horizon leads"
    );
    fleet.regions[0].disk_ms = 2;
    fleet.run(10_000);
    assert_eq!(spend_all(&mut fleet, 0), 20);
}

#[test]
fn rule_4_a_restart_goes_on_from_its_marks() {
    let check = |spent: u64, most_left: u64| {
        let mut fleet = fleet("200/60s");
        next_slot(&mut fleet, 60_000);
        for _ in 0..spent {
            assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Allow(_))), "marks are ahead of use");
            fleet.run(5);
        }
        fleet.run(50);
        fleet.crash(0);
        fleet.run(500);
        fleet.restart(0);
        fleet.run(20);
        let left = spend_all(&mut fleet, 0);
        // A chunk of 10 may be lost with the crash, and what needed no mark counts as spent.
        assert!(left <= most_left && left + 20 >= most_left, "{left} of {most_left}");
        assert!(fleet.busiest(1) <= 100);
    };
    check(0, 100);
    check(5, 95);
    check(60, 40);
    check(100, 0);
}

#[test]
fn rule_4_a_key_that_was_never_marked_counts_what_it_could_have_spent() {
    let mut fleet = fleet("200/60s");
    next_slot(&mut fleet, 60_000);
    for _ in 0..4 {
        fleet.request(0, &[(1, 1)]);
    }
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    assert_eq!(spend_all(&mut fleet, 0), 90, "10 needed no mark");
}

#[test]
fn rule_4_lost_marks_give_no_rights_in_slots_that_may_have_been_spent() {
    let mut fleet = fleet("20/60s");
    next_slot(&mut fleet, 60_000);
    fleet.crash(0);
    fleet.lose_disk(0);
    fleet.restart(0);
    fleet.run(20);
    let (reason, retry_after) = refusal(&mut fleet, 0).expect("refused");
    assert_eq!(reason, DenyReason::Degraded, "our own loss is never told as the client's excess");
    assert!((59..=60).contains(&retry_after.as_secs()));
    // The next crash keeps its disk: the slot stays closed all the same.
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    assert_eq!(refusal(&mut fleet, 0).map(|(reason, _)| reason), Some(DenyReason::Degraded));
    next_slot(&mut fleet, 60_000);
    assert_eq!(spend_all(&mut fleet, 0), 10);
}

#[test]
fn rule_4_a_short_window_is_served_again_two_seconds_after_a_restart() {
    let mut fleet = fleet("20/s");
    next_slot(&mut fleet, 1000);
    spend_all(&mut fleet, 0);
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    assert_eq!(refusal(&mut fleet, 0).map(|(reason, _)| reason), Some(DenyReason::Degraded));
    fleet.run(3000);
    let spent = spend_all(&mut fleet, 0);
    assert!((10..=20).contains(&spent), "its own share, and what it borrowed: {spent}");
    assert_eq!(fleet.busiest(1), spent);
}

#[test]
fn rule_4_marks_of_another_limit_under_the_same_number_mean_nothing() {
    let mut fleet = fleet("2000/20s");
    next_slot(&mut fleet, 20_000);
    spend_all(&mut fleet, 0);
    fleet.run(50);
    fleet.crash(0);
    // A cluster founded anew counts its limits from 1 again. Modulo the wrap of slot numbers the old slot is to come.
    fleet.define(vec![definition(1, "20/h", STATIC)]);
    fleet.restart(0);
    fleet.run(3000);
    assert_eq!(spend_all(&mut fleet, 0), 9, "one needed no mark");
}

#[test]
fn a_burst_for_one_key_waits_for_few_writes() {
    let mut fleet = fleet("2000/60s");
    next_slot(&mut fleet, 60_000);
    let mut waits = 0;
    for _ in 0..1000 {
        while !matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Allow(_))) {
            waits += 1;
            fleet.run(5);
        }
    }
    assert!(waits <= 4, "{waits} waits");
}

#[test]
fn rule_5_a_clock_that_steps_back_over_a_restart_reopens_no_slot() {
    let check = |rate: &str, window_ms: u64| {
        let mut fleet = fleet(rate);
        next_slot(&mut fleet, window_ms);
        spend_all(&mut fleet, 0);
        next_slot(&mut fleet, window_ms);
        spend_all(&mut fleet, 0);
        fleet.crash(0);
        fleet.regions[0].clock_ms = -(window_ms as i64);
        fleet.restart(0);
        fleet.run(20);
        assert_eq!(spend_all(&mut fleet, 0), 0, "{rate}");
        assert!((10..=20).contains(&fleet.busiest(1)), "its own share, and what it borrowed");
    };
    check("20/s", 1000);
    check("20/60s", 60_000);
}

#[test]
fn rule_5_a_clock_that_steps_back_under_way_neither_reopens_a_slot_nor_stops_them() {
    // Alone: another region's heartbeats would carry the clock on.
    let mut fleet = Fleet::new(1, vec![definition(1, "10/s", STATIC)], 5);
    fleet.settle();
    next_slot(&mut fleet, 1000);
    spend_all(&mut fleet, 0);
    fleet.regions[0].clock_ms = -5000;
    assert_eq!(spend_all(&mut fleet, 0), 0);
    fleet.run(1500);
    assert_eq!((spend_all(&mut fleet, 0), fleet.busiest(1)), (10, 10));
}

#[test]
fn rule_5_slots_go_on_after_a_restart_with_the_clock_set_back_by_hours() {
    let check = |rate: &str, window_ms: u64| {
        let mut fleet = fleet(rate);
        next_slot(&mut fleet, window_ms);
        spend_all(&mut fleet, 0);
        fleet.crash(0);
        fleet.regions[0].clock_ms = -2 * 3_600_000;
        fleet.restart(0);
        fleet.run(20);
        assert_eq!(spend_all(&mut fleet, 0), 0, "{rate}");
        // Nine tenths of the pace, and the slots that the horizon covered.
        fleet.run(window_ms * 10 / 9 + 3000);
        let spent = spend_all(&mut fleet, 0);
        assert!((10..=20).contains(&spent), "its own share, and what it borrowed: {spent} of {rate}");
        assert_eq!(fleet.busiest(1), spent, "{rate}");
    };
    check("20/s", 1000);
    check("20/60s", 60_000);
}

#[test]
fn rule_10_a_slot_begins_empty_and_a_unit_given_back_late_does_not_reach_it() {
    let mut fleet = Fleet::new(1, vec![definition(1, "10/s", STATIC), definition(2, "1/h", STATIC)], 5);
    fleet.settle();
    next_slot(&mut fleet, 1000);
    for _ in 0..50 {
        // The second limit refuses all but one, and every refusal gives the first one's unit back.
        fleet.request(0, &[(1, 1), (2, 1)]);
    }
    assert_eq!((spend_all(&mut fleet, 0), fleet.busiest(1)), (9, 10));
    next_slot(&mut fleet, 1000);
    assert_eq!((spend_all(&mut fleet, 0), fleet.busiest(1)), (10, 10));
}

#[test]
fn rule_10_a_key_that_shared_the_overflow_counter_does_not_start_afresh_when_it_gets_its_own() {
    let filler = definition(2, "1000/h", STATIC);
    let mut fleet = Fleet::new(1, vec![definition(1, "10/60s", STATIC), filler], 5);
    fleet.settle();
    next_slot(&mut fleet, 60_000);
    for key in 0..2000 {
        fleet.request(0, &[(2, key)]);
    }
    assert_eq!(spend_all(&mut fleet, 0), 10);
    assert!(fleet.limits(0).stats().overflowed >= 10);
    // The limit that filled the table ends, and its entries are swept.
    fleet.define(vec![definition(1, "10/60s", STATIC)]);
    fleet.run(20_000);
    let overflowed = fleet.limits(0).stats().overflowed;
    assert_eq!(spend_all(&mut fleet, 0), 0);
    next_slot(&mut fleet, 60_000);
    assert_eq!(spend_all(&mut fleet, 0), 10);
    assert_eq!(fleet.limits(0).stats().overflowed, overflowed, "the key has its own counter");
}

#[test]
fn rule_10_an_overflow_counter_used_once_is_no_slot_to_come_when_slot_numbers_wrap() {
    let mut fleet = Fleet::new(1, vec![definition(1, "10/s", STATIC)], 5);
    fleet.settle();
    for key in 0..2000 {
        fleet.request(0, &[(1, key)]);
    }
    assert!(fleet.limits(0).stats().overflowed > 0);
    // Until every dead entry of the table is swept.
    fleet.run(20_000);
    fleet.now_ms += ((1 << 23) + 100) * 1000;
    fleet.run(3000);
    next_slot(&mut fleet, 1000);
    assert_eq!(spend_all(&mut fleet, 0), 10);
}

#[test]
fn rule_14_an_exhausted_share_is_429_while_every_region_is_heard_and_503_while_one_is_not() {
    let mut fleet = fleet("20/60s");
    next_slot(&mut fleet, 60_000);
    // Another region is asked for once and keeps the most of its share.
    fleet.request(1, &[(1, 1)]);
    spend_all(&mut fleet, 0);
    assert_eq!(refusal(&mut fleet, 0).map(|(reason, _)| reason), Some(DenyReason::Exhausted));
    fleet.crash(1);
    fleet.run(1000);
    spend_all(&mut fleet, 0);
    assert_eq!(refusal(&mut fleet, 0).map(|(reason, _)| reason), Some(DenyReason::Degraded));
}

#[test]
fn rule_14_static_is_the_default_policy() {
    assert_eq!(OnPartition::default(), STATIC);
}
