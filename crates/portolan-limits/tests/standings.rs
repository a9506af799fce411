//! Regions that are gone and lenders outside: whose share moves when, and what a late answer may not do.

mod fleet;

use std::{collections::BTreeMap, time::Duration};

use fleet::{Fleet, definition};
use portolan_config::{ShareChange, SharePlan};
use portolan_limits::{
    Admission, Algorithm, Definition, DenyReason, Event, Granted, LenderState, LimitId, LoanReply, OnPartition,
};
use portolan_model::Rate;

const STATIC: OnPartition = OnPartition::Static;

fn next_slot(fleet: &mut Fleet) {
    fleet.run(1000 - fleet.now(0).wall.as_unix_millis() % 1000);
}

/// Asks until refused and returns how many were admitted.
fn spend_all(fleet: &mut Fleet, at: usize) -> u64 {
    (0..1000).filter(|_| matches!(fleet.request(at, &[(1, 1)]), Some(Admission::Allow(_)))).count() as u64
}

#[test]
fn rule_6_a_stopped_process_checks_its_lease_before_its_first_admission_and_others_get_the_share_from_then_on() {
    let mut fleet = Fleet::new(2, vec![definition(1, "20/s", STATIC)], 5);
    fleet.settle();
    next_slot(&mut fleet);
    let until = fleet.now(0).wall + Duration::from_secs(2);
    let now = fleet.now(0);
    let leases = BTreeMap::from([(LimitId(1), until)]);
    fleet.regions[0].limits.as_mut().expect("it runs").handle_leases(&leases, now);
    fleet.network.cut = vec![(0, 1), (1, 0)];
    fleet.run(1100);
    assert_eq!(spend_all(&mut fleet, 0), 10, "the slot begins before the lease ends");
    // The process stands still: its state machine sees no time pass.
    fleet.crash(0);
    fleet.run(900);
    let limiter = fleet.regions[0].limiter.clone();
    let key = limiter.key(LimitId(1), &[&1u64.to_le_bytes()]);
    let claim = portolan_limits::Claim { limit: LimitId(1), key, cost: 1 };
    let first = limiter.admit(&[claim], fleet.now(0));
    assert!(matches!(first, Admission::Deny(denial) if denial.reason == DenyReason::Degraded));
    // The log gives its share to the other region, from that slot on.
    let change = ShareChange { weights: vec![0, 1], from: Some(until), earliest: until };
    let shares = SharePlan { weights: Vec::new(), change: Some(change) };
    fleet.define(vec![Definition { shares, ..definition(1, "20/s", STATIC) }]);
    fleet.allowed.clear();
    for _ in 0..8 {
        spend_all(&mut fleet, 1);
        fleet.run(250);
    }
    assert_eq!(fleet.busiest(1), 20);
}

#[test]
fn rule_6_nothing_is_lent_of_a_slot_without_a_lease() {
    let mut fleet = Fleet::new(2, vec![definition(1, "20/s", STATIC)], 5);
    fleet.settle();
    next_slot(&mut fleet);
    let until = fleet.now(0).wall + Duration::from_secs(2);
    let now = fleet.now(0);
    fleet.regions[0].limits.as_mut().expect("it runs").handle_leases(&BTreeMap::from([(LimitId(1), until)]), now);
    for _ in 0..400 {
        fleet.request(1, &[(1, 1)]);
        fleet.run(10);
    }
    let slots: Vec<u64> = fleet.allowed.values().map(|counts| counts[1]).collect();
    assert_eq!(slots.len(), 4);
    assert!(slots[1] > 10, "it borrows while the lender has its lease: {slots:?}");
    assert_eq!(slots[2..], [10, 10]);
}

/// Region 0 was fenced while it was cut off. Of a slot that begins at the turn or after, the others have its share, or
/// nobody, where it is not known yet whether they have. The cut heals, and it lends as before, for it has not heard of
/// that. Returns what each slot was charged by the others, and what they were lent.
fn lent_without_a_share(limit: &Definition, is_set: bool) -> (Vec<u64>, u64) {
    let mut fleet = Fleet::new(3, vec![limit.clone()], 5);
    fleet.settle();
    fleet.network.cut = vec![(0, 1), (1, 0), (0, 2), (2, 0)];
    next_slot(&mut fleet);
    let turn = fleet.now(1).wall + Duration::from_secs(4);
    let change = ShareChange { weights: vec![0, 1, 1], from: is_set.then_some(turn), earliest: turn };
    let shares = SharePlan { weights: Vec::new(), change: Some(change) };
    for at in [1, 2] {
        let now = fleet.now(at);
        let limits = fleet.regions[at].limits.as_mut().expect("it runs");
        limits.handle_definitions(&[Definition { shares: shares.clone(), ..limit.clone() }], now);
        fleet.regions[at].limiter = limits.limiter();
    }
    fleet.run(6000);
    fleet.network.cut.clear();
    fleet.allowed.clear();
    for ms in 0..6000 {
        fleet.request(1, &[(1, 1)]);
        if ms % 4 == 0 {
            fleet.request(2, &[(1, 1)]);
        }
        fleet.run(1);
    }
    let lent = fleet.limits(0).overview(fleet.now(0))[0].tally.lent;
    (fleet.allowed.values().map(|counts| counts.iter().sum()).collect(), lent)
}

#[test]
fn rule_6_what_a_region_lends_that_has_not_heard_of_its_fence_is_not_spent() {
    let limit = |algorithm| Definition { algorithm, ..definition(1, "300/s", STATIC) };
    let rate = Rate { count: 300, per: Duration::from_secs(1) };
    let check = |algorithm: Algorithm, is_set, most: u64| {
        let (slots, lent) = lent_without_a_share(&limit(algorithm.clone()), is_set);
        let busiest = slots.iter().max().copied().unwrap_or(0);
        assert!(lent > 0 && busiest > most * 9 / 10, "{algorithm:?}: {lent} lent, {slots:?} spent");
        assert!(busiest <= most, "{algorithm:?}: {lent} lent, {slots:?} spent");
    };
    for (is_set, most) in [(true, 300), (false, 200)] {
        check(definition(1, "300/s", STATIC).algorithm, is_set, most);
        check(Algorithm::SlidingWindow { quota: rate.count, window: rate.per }, is_set, most);
        // What is there at once, and what comes in a second.
        check(Algorithm::TokenBucket { rate, burst: 30 }, is_set, most + most / 10);
    }
}

#[test]
fn rule_15_a_lender_outside_adds_what_it_granted_and_an_answer_after_the_slot_adds_nothing() {
    let lent = Definition { lent: true, ..definition(1, "100/s", STATIC) };
    let mut fleet = Fleet::new(2, vec![lent], 5);
    fleet.settle();
    next_slot(&mut fleet);
    assert_eq!(spend_all(&mut fleet, 0), 10, "half of the fifth that the regions keep");
    fleet.run(110);
    let request = fleet.regions[0].limits.as_mut().and_then(|limits| limits.poll_loan()).expect("it asks for more");
    assert_eq!((request.held, request.quota), (0, 80));
    let reply = |held| LoanReply {
        limit: request.limit,
        key: request.key,
        slot: request.slot,
        sequence: request.sequence,
        granted: Some(Granted { held, total: held, before: 0 }),
    };
    let answer = |fleet: &mut Fleet, held| {
        let now = fleet.now(0);
        fleet.regions[0].limits.as_mut().expect("it runs").handle_loan(reply(held), now);
    };
    answer(&mut fleet, 7);
    answer(&mut fleet, 7);
    assert_eq!(spend_all(&mut fleet, 0), 7);
    next_slot(&mut fleet);
    answer(&mut fleet, 40);
    assert_eq!(spend_all(&mut fleet, 0), 10);
    assert!(fleet.allowed.values().all(|counts| counts[0] <= 17));
}

#[test]
fn a_lender_that_is_not_to_be_counted_on_is_as_a_region_that_is_not_heard() {
    let closed = Definition { lent: true, ..definition(1, "100/s", OnPartition::Closed) };
    let mut fleet = Fleet::new(2, vec![closed], 5);
    fleet.settle();
    let say = |fleet: &mut Fleet, reachable| {
        let now = fleet.now(0);
        let state = LenderState { limit: LimitId(1), reachable };
        fleet.regions[0].limits.as_mut().expect("it runs").handle_lender(state, now);
    };
    say(&mut fleet, false);
    assert_eq!(spend_all(&mut fleet, 0), 0);
    say(&mut fleet, true);
    assert_eq!(spend_all(&mut fleet, 0), 10);
}

#[test]
fn a_partition_is_accounted_for_when_it_has_healed() {
    let mut fleet = Fleet::new(2, vec![definition(1, "20/s", OnPartition::OPEN)], 5);
    fleet.settle();
    fleet.network.cut = vec![(0, 1), (1, 0)];
    fleet.run(1000);
    for _ in 0..12 {
        for at in 0..2 {
            spend_all(&mut fleet, at);
        }
        fleet.run(250);
    }
    fleet.network.cut.clear();
    fleet.run(4000);
    let heals = fleet.events.iter().filter_map(|(at, event)| match event {
        Event::PartitionHeal { peers, limits, .. } if *at == 0 => Some((peers.len(), limits[0].clone())),
        _ => None,
    });
    let heals: Vec<_> = heals.collect();
    let [(peers, tally)] = heals.as_slice() else { panic!("one partition: {heals:?}") };
    assert!(*peers == 1 && tally.admitted >= 20 && tally.rejected > 0, "{tally:?}");
}
