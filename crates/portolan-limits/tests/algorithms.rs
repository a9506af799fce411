//! What each algorithm admits in one region, through the public interface.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Charge, Claim, Definition, DenyReason, LimitId, Window};
use portolan_model::{Name, Now};

fn limit(id: u32, algorithm: Algorithm) -> Definition {
    Definition::new(LimitId(id), Name::new(&format!("limit-{id}")).expect("a name"), algorithm)
}

fn fixed(id: u32, quota: u64, seconds: u64) -> Definition {
    limit(id, Algorithm::FixedWindow { quota, window: Window::Length(Duration::from_secs(seconds)) })
}

fn alone(definitions: Vec<Definition>) -> Fleet {
    let mut fleet = Fleet::new(1, definitions, 5);
    fleet.settle();
    fleet
}

fn claim(fleet: &Fleet, limit: u32, cost: u32) -> Claim {
    let limit = LimitId(limit);
    Claim { limit, key: fleet.regions[0].limiter.key(limit, &[b"key"]), cost }
}

fn admit(fleet: &Fleet, claims: &[(u32, u32)]) -> Admission {
    let claims: Vec<Claim> = claims.iter().map(|&(limit, cost)| claim(fleet, limit, cost)).collect();
    fleet.regions[0].limiter.admit(&claims, fleet.now(0))
}

fn charges(fleet: &Fleet, claims: &[(u32, u32)]) -> Option<Vec<Charge>> {
    match admit(fleet, claims) {
        Admission::Allow(charges) => Some(charges.into_vec()),
        _ => None,
    }
}

/// Requests of one unit that pass now.
fn burst(fleet: &Fleet) -> usize {
    (0..10_000).take_while(|_| charges(fleet, &[(1, 1)]).is_some()).count()
}

fn spent(fleet: &Fleet, limit: u32) -> u64 {
    fleet.regions[0].limiter.peek(&[claim(fleet, limit, 1)], fleet.now(0))[0].spent
}

/// Moves to the first millisecond of the next slot.
fn next_slot(fleet: &mut Fleet, window_ms: u64) {
    fleet.run(window_ms - fleet.now(0).wall.as_unix_millis() % window_ms);
}

#[test]
fn a_request_costs_what_it_claims_of_every_limit_or_nothing() {
    let mut fleet = alone(vec![fixed(1, 10, 1), fixed(2, 5, 1)]);
    next_slot(&mut fleet, 1000);
    assert!(charges(&fleet, &[(1, 4), (2, 3)]).is_some());
    assert!(charges(&fleet, &[(1, 4), (2, 3)]).is_none(), "the second limit has 2 left");
    assert_eq!((spent(&fleet, 1), spent(&fleet, 2)), (4, 3));
    assert!(charges(&fleet, &[(1, 6), (2, 2)]).is_some());
    assert!(charges(&fleet, &[(1, 0), (2, 0)]).is_some(), "what costs nothing always fits");
    assert!(charges(&fleet, &[(1, 1)]).is_none());
}

#[test]
fn a_cost_above_the_quota_is_refused_and_never_waits() {
    let mut fleet = alone(vec![fixed(1, 10, 60)]);
    next_slot(&mut fleet, 60_000);
    match admit(&fleet, &[(1, 11)]) {
        Admission::Deny(denial) => assert_eq!(denial.reason, DenyReason::Exhausted),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_refund_counts_in_its_slot_and_is_void_after_it() {
    let mut fleet = alone(vec![fixed(1, 10, 1)]);
    next_slot(&mut fleet, 1000);
    let charge = charges(&fleet, &[(1, 10)]).expect("all fits")[0];
    let refund = |fleet: &Fleet, units, now: Now| fleet.regions[0].limiter.refund(&charge, units, now);
    refund(&fleet, 4, fleet.now(0));
    assert_eq!(burst(&fleet), 4);
    next_slot(&mut fleet, 1000);
    refund(&fleet, 6, fleet.now(0));
    assert_eq!((burst(&fleet), spent(&fleet, 1)), (10, 10));
}

#[test]
fn a_refund_is_of_no_more_than_was_charged() {
    let mut fleet = alone(vec![fixed(1, 10, 1)]);
    next_slot(&mut fleet, 1000);
    assert_eq!(burst(&fleet), 10);
    fleet.run(1000);
    assert!(charges(&fleet, &[(1, 7)]).is_some());
    let charge = charges(&fleet, &[(1, 1)]).expect("it fits")[0];
    fleet.regions[0].limiter.refund(&charge, u32::MAX, fleet.now(0));
    assert_eq!(spent(&fleet, 1), 7);
}

#[test]
fn a_limit_in_shadow_is_counted_and_neither_refuses_nor_blocks_others() {
    let shadow = Definition { shadow: true, ..fixed(1, 2, 1) };
    let mut fleet = alone(vec![shadow, fixed(2, 3, 1)]);
    next_slot(&mut fleet, 1000);
    let passed: Vec<_> = (0..5).map(|_| charges(&fleet, &[(1, 1), (2, 1)])).collect();
    let refused: Vec<_> = passed.iter().flatten().map(|charges| charges[0].shadow_refused).collect();
    assert_eq!(refused, [false, false, true], "the other limit admits 3");
    assert_eq!((spent(&fleet, 1), spent(&fleet, 2)), (2, 3));
}

#[test]
fn a_quota_of_2_to_the_36_is_counted_exactly() {
    let mut fleet = alone(vec![fixed(1, 1 << 36, 1)]);
    next_slot(&mut fleet, 1000);
    let passed = (0..100).filter(|_| charges(&fleet, &[(1, u32::MAX)]).is_some()).count();
    assert_eq!((passed, spent(&fleet, 1)), (16, 16 * u64::from(u32::MAX)));
    assert!(charges(&fleet, &[(1, 17)]).is_none() && charges(&fleet, &[(1, 16)]).is_some());
}

#[test]
fn a_sliding_window_admits_by_the_estimate_of_two_slots() {
    let mut fleet = alone(vec![limit(1, Algorithm::SlidingWindow { quota: 100, window: Duration::from_secs(1) })]);
    next_slot(&mut fleet, 1000);
    assert_eq!(burst(&fleet), 100);
    // At the boundary all of the slot before still counts, and then less with every moment.
    next_slot(&mut fleet, 1000);
    assert_eq!(burst(&fleet), 0);
    fleet.run(300);
    assert_eq!(burst(&fleet), 30);
    fleet.run(200);
    assert_eq!(burst(&fleet), 20);
    next_slot(&mut fleet, 1000);
    assert_eq!(burst(&fleet), 50, "50 were charged to the slot before");
    fleet.run(2000);
    assert_eq!(burst(&fleet), 100);
}

#[test]
fn a_sliding_window_says_when_enough_of_the_slot_before_is_gone() {
    let mut fleet = alone(vec![limit(1, Algorithm::SlidingWindow { quota: 100, window: Duration::from_secs(1) })]);
    next_slot(&mut fleet, 1000);
    burst(&fleet);
    next_slot(&mut fleet, 1000);
    let Admission::Deny(denial) = admit(&fleet, &[(1, 10)]) else { panic!("nothing is left") };
    assert_eq!(denial.retry_after, Duration::from_millis(100));
    fleet.run(99);
    assert!(charges(&fleet, &[(1, 10)]).is_none());
    fleet.run(1);
    assert!(charges(&fleet, &[(1, 10)]).is_some());
}

#[test]
fn a_long_sliding_window_goes_on_from_its_marks_after_a_crash() {
    let mut fleet = alone(vec![limit(1, Algorithm::SlidingWindow { quota: 100, window: Duration::from_secs(60) })]);
    next_slot(&mut fleet, 60_000);
    let mut passed = 0;
    for _ in 0..60 {
        passed += u64::from(fleet.request(0, &[(1, 1)]).is_some_and(|answer| matches!(answer, Admission::Allow(_))));
        fleet.run(5);
    }
    fleet.run(50);
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    let key = fleet.regions[0].limiter.key(LimitId(1), &[&1u64.to_le_bytes()]);
    for _ in 0..200 {
        let answer = fleet.regions[0].limiter.admit(&[Claim { limit: LimitId(1), key, cost: 1 }], fleet.now(0));
        passed += u64::from(matches!(answer, Admission::Allow(_)));
        if fleet.regions[0].limiter.take_attention() {
            fleet.run(200);
        }
    }
    assert!((80..=100).contains(&passed), "{passed}");
}

#[test]
fn a_token_bucket_gives_its_burst_and_then_its_rate() {
    let rate = "10/s".parse().expect("a rate");
    let mut fleet = alone(vec![limit(1, Algorithm::TokenBucket { rate, burst: 5 })]);
    fleet.run(2000);
    assert_eq!(burst(&fleet), 5);
    let Admission::Deny(denial) = admit(&fleet, &[(1, 2)]) else { panic!("nothing is left") };
    assert_eq!((denial.reason, denial.retry_after), (DenyReason::Exhausted, Duration::from_millis(200)));
    fleet.run(100);
    assert_eq!(burst(&fleet), 1);
    fleet.run(250);
    assert_eq!(burst(&fleet), 2);
    fleet.run(60_000);
    assert_eq!((spent(&fleet, 1), burst(&fleet)), (0, 5));
}

#[test]
fn tokens_given_back_can_be_taken_again() {
    let rate = "1/s".parse().expect("a rate");
    let fleet = alone(vec![limit(1, Algorithm::TokenBucket { rate, burst: 4 })]);
    let charge = charges(&fleet, &[(1, 4)]).expect("the bucket is full")[0];
    fleet.regions[0].limiter.refund(&charge, 3, fleet.now(0));
    assert_eq!(burst(&fleet), 3);
}

#[test]
fn a_bucket_of_a_process_before_is_taken_for_empty() {
    let rate = "10/s".parse().expect("a rate");
    let mut fleet = alone(vec![limit(1, Algorithm::TokenBucket { rate, burst: 20 })]);
    fleet.run(1000);
    assert_eq!(burst(&fleet), 20);
    fleet.crash(0);
    fleet.restart(0);
    fleet.run(20);
    let mut passed = 0;
    for _ in 0..30 {
        fleet.run(100);
        passed += burst(&fleet);
    }
    // At most what 3 s give, and none before the last horizon has passed.
    assert!((1..=12).contains(&passed), "{passed}");
}

#[test]
fn a_bucket_of_another_rate_misses_as_many_tokens_as_before() {
    let bucket = |count: u64| {
        let rate = format!("{count}/s").parse().expect("a rate");
        limit(1, Algorithm::TokenBucket { rate, burst: 10 })
    };
    let mut fleet = alone(vec![bucket(100)]);
    assert_eq!(burst(&fleet), 10);
    fleet.define(vec![bucket(10)]);
    assert_eq!(burst(&fleet), 0, "the burst is not there a second time");
    fleet.run(500);
    assert_eq!(burst(&fleet), 5);
    fleet.define(vec![bucket(1000)]);
    fleet.run(10);
    assert_eq!(burst(&fleet), 10, "what is missing comes back at the new rate");
}

#[test]
fn regions_share_the_rate_and_the_burst_of_a_bucket() {
    let rate = "30/s".parse().expect("a rate");
    let mut fleet = Fleet::new(3, vec![limit(1, Algorithm::TokenBucket { rate, burst: 9 })], 5);
    fleet.settle();
    fleet.run(1000);
    let mut passed = 0;
    for _ in 0..100 {
        for at in 0..3 {
            passed += (0..20).filter(|_| matches!(fleet.request(at, &[(1, 1)]), Some(Admission::Allow(_)))).count();
        }
        fleet.run(10);
    }
    assert!((36..=39).contains(&passed), "{passed} of 9 and 30/s");
}

#[test]
fn a_concurrency_limit_counts_what_is_in_flight() {
    let mut fleet = alone(vec![limit(1, Algorithm::Concurrency { limit: 3 })]);
    let first = charges(&fleet, &[(1, 2)]).expect("it fits")[0];
    assert_eq!(burst(&fleet), 1);
    fleet.run(100_000);
    assert_eq!(burst(&fleet), 0, "time ends nothing");
    fleet.regions[0].limiter.refund(&first, 2, fleet.now(0));
    assert_eq!(burst(&fleet), 0, "what runs is released, not refunded");
    fleet.regions[0].limiter.release(&first);
    assert_eq!(burst(&fleet), 2);
}

#[test]
fn releasing_a_charge_of_another_algorithm_does_nothing() {
    let mut fleet = alone(vec![fixed(1, 2, 1)]);
    next_slot(&mut fleet, 1000);
    let charge = charges(&fleet, &[(1, 2)]).expect("it fits")[0];
    fleet.regions[0].limiter.release(&charge);
    assert_eq!(burst(&fleet), 0);
}
