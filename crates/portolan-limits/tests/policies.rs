//! What each policy does while regions cannot hear each other, and after they can again.

mod fleet;

use std::sync::Arc;

use fleet::{Fleet, definition};
use portolan_limits::{Admission, Claim, LimitId, Mode, OnPartition};

const POLICIES: [(u32, OnPartition); 3] = [(1, OnPartition::Static), (2, OnPartition::OPEN), (3, OnPartition::Closed)];

/// Three regions with one limit of 30/s per policy, under twice that load.
fn loaded(mut fleet: Fleet, millis: u64) -> Fleet {
    for step in 0..millis / 50 {
        for (limit, _) in POLICIES {
            fleet.request((step % 3) as usize, &[(limit, 1)]);
            fleet.request(((step + 1) % 3) as usize, &[(limit, 1)]);
            fleet.request(((step + 2) % 3) as usize, &[(limit, 1)]);
        }
        fleet.run(50);
    }
    fleet
}

fn fleet() -> Fleet {
    let definitions = POLICIES.map(|(id, on_partition)| definition(id, "30/s", on_partition));
    let mut fleet = Fleet::new(3, definitions.to_vec(), 7);
    fleet.settle();
    fleet
}

fn isolate(fleet: &mut Fleet, region: usize) {
    fleet.network.cut = (0..3).filter(|&at| at != region).flat_map(|at| [(at, region), (region, at)]).collect();
}

#[test]
fn a_healthy_fleet_serves_its_full_limit_at_once_and_answers_429_beyond() {
    let fleet = loaded(fleet(), 5000);
    for (limit, _) in POLICIES {
        assert_eq!(fleet.busiest(limit), 30);
    }
    assert!(fleet.refusals(0, Some("exhausted")) > 0);
    let ours = ["degraded", "closed"].map(|reason| fleet.refusals(0, Some(reason)));
    assert_eq!((ours, fleet.refusals(0, None)), ([0, 0], 0));
}

#[test]
fn a_cut_off_region_keeps_its_share_under_static() {
    let mut fleet = loaded(fleet(), 3000);
    isolate(&mut fleet, 2);
    fleet.run(1000);
    fleet.allowed.clear();
    let fleet = loaded(fleet, 5000);
    assert_eq!(fleet.busiest(1), 30);
    let own = fleet.allowed.iter().filter(|((limit, ..), _)| limit.0 == 1).map(|(_, counts)| counts[2]).max();
    assert_eq!(own, Some(10));
    assert!(fleet.refusals(2, Some("degraded")) > 0, "an empty share while cut off is 503");
}

#[test]
fn each_side_admits_the_limit_under_open() {
    let mut fleet = loaded(fleet(), 3000);
    isolate(&mut fleet, 2);
    fleet.run(1000);
    fleet.allowed.clear();
    let fleet = loaded(fleet, 5000);
    let open: Vec<_> = fleet.allowed.iter().filter(|((limit, ..), _)| limit.0 == 2).map(|(_, counts)| counts).collect();
    // Its share is 10 and its own spend must not count twice in its view: all 20 asked for are served.
    assert!(open.iter().any(|counts| counts[2] == 20), "the cut off region is served beyond its share");
    // One region sees the other's spend a gossip interval and a delay late: 150 ms at 20/s, and the tick itself.
    let unseen = 20 * (150 + 100) / 1000;
    for counts in open {
        assert!(counts[2] <= 30 && counts[0] + counts[1] <= 30 + unseen, "{counts:?}");
    }
}

#[test]
fn small_spends_are_told_at_once_while_admissions_depend_on_the_merged_view() {
    let mut fleet = fleet();
    isolate(&mut fleet, 2);
    fleet.run(1000 + 1000 - fleet.now(0).wall.as_unix_millis() % 1000);
    fleet.request(0, &[(2, 1)]);
    fleet.run(200);
    let limiter = Arc::clone(&fleet.regions[1].limiter);
    fleet.request(1, &[(2, 1)]);
    fleet.run(110);
    let claim = Claim { limit: LimitId(2), key: limiter.key(LimitId(2), &[&1u64.to_le_bytes()]), cost: 1 };
    let peek = &limiter.peek(&[claim], fleet.now(1))[0];
    assert_eq!((peek.spent, peek.others, peek.remaining), (1, 1, 28));
}

#[test]
fn nothing_is_admitted_under_closed_while_any_region_is_unheard() {
    let mut fleet = loaded(fleet(), 3000);
    isolate(&mut fleet, 2);
    fleet.run(700);
    fleet.allowed.clear();
    let mut fleet = loaded(fleet, 3000);
    assert_eq!(fleet.busiest(3), 0);
    assert!((0..3).all(|at| fleet.refusals(at, Some("closed")) > 0), "both sides say 503");

    fleet.network.cut.clear();
    fleet.run(2500);
    let fleet = loaded(fleet, 3000);
    assert_eq!(fleet.busiest(3), 30);
}

/// How long a region of three refuses everything under the policy after a restart, up to two seconds; its marks would let it
/// go on at once.
fn closed_after_restart(on_partition: OnPartition, cut_for: Option<u64>) -> u64 {
    let mut fleet = Fleet::new(3, vec![definition(1, "3000/min", on_partition)], 7);
    fleet.settle();
    fleet.run(30_000);
    fleet.request(2, &[(1, 1)]);
    if let Some(millis) = cut_for {
        isolate(&mut fleet, 2);
        fleet.run(millis);
    }
    fleet.crash(2);
    fleet.run(100);
    fleet.restart(2);
    let refused = |fleet: &mut Fleet| !matches!(fleet.request(2, &[(1, 1)]), Some(Admission::Allow(_)));
    (0..2000).step_by(10).find(|_| !(0..10).all(|_| refused(fleet.after(1)))).unwrap_or(2000)
}

#[test]
fn a_process_that_starts_behind_a_cut_admits_nothing_under_closed_from_its_first_moment() {
    for policy in [OnPartition::Closed, OnPartition::ClosedMinority] {
        assert_eq!(closed_after_restart(policy, Some(3000)), 2000, "{policy:?}");
        // Heartbeats cross in 40 to 50 ms, and go out every 100 ms.
        let healthy = closed_after_restart(policy, None);
        assert!(healthy <= 250, "{policy:?}: {healthy} ms where all is well");
    }
    for policy in [OnPartition::Static, OnPartition::OPEN] {
        assert!(closed_after_restart(policy, Some(3000)) <= 20, "{policy:?} needs nobody's word");
    }
}

#[test]
fn an_idle_fleet_stays_healthy_because_heartbeats_flow_without_traffic() {
    let mut fleet = fleet();
    fleet.network.loss_percent = 5;
    for _ in 0..600 {
        fleet.run(100);
        assert!((0..3).all(|at| fleet.limits(at).mode() == Mode::Healthy), "at {} ms", fleet.now_ms);
    }
}

#[test]
fn a_region_that_is_only_mute_degrades_both_sides() {
    let mut fleet = fleet();
    fleet.network.cut = vec![(2, 0), (2, 1)];
    fleet.run(1500);
    assert!((0..3).all(|at| fleet.limits(at).mode() == Mode::Degraded));
}

#[test]
fn digests_are_equal_three_seconds_after_heal() {
    let definitions = POLICIES.map(|(id, on_partition)| definition(id, "3000/min", on_partition));
    let mut fleet = Fleet::new(3, definitions.to_vec(), 11);
    fleet.settle();
    isolate(&mut fleet, 1);
    for step in 0..200 {
        for key in 0..20 {
            fleet.request(step % 3, &[(1, key), (2, key)]);
        }
        fleet.run(20);
    }
    let digests = |fleet: &Fleet| [0, 1, 2].map(|at| fleet.limits(at).slot_digests(fleet.now(at)));
    let [one, cut_off, other] = digests(&fleet);
    assert!(!one.is_empty() && one != cut_off && cut_off != other);
    fleet.network.cut.clear();
    fleet.run(3000);
    let [one, two, three] = digests(&fleet);
    assert!(!one.is_empty() && one == two && two == three);
}

#[test]
fn a_majority_that_hears_a_region_late_for_a_moment_serves_under_closed_minority() {
    let apart: Vec<_> = (0..3).flat_map(|at| [3, 4].map(|far| (at, far))).flat_map(|(a, b)| [(a, b), (b, a)]).collect();
    for late in (0..1000).step_by(100) {
        let mut fleet = Fleet::new(5, vec![definition(1, "50/s", OnPartition::ClosedMinority)], 3);
        fleet.settle();
        fleet.run(1000);
        fleet.network.cut = apart.clone();
        fleet.run(late);
        fleet.network.cut.push((1, 0));
        fleet.run(400);
        fleet.network.cut = apart.clone();
        fleet.run(1500);
        assert_eq!(fleet.limits(0).mode(), Mode::Degraded);
        assert!(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Allow(_))), "late after {late} ms");
        assert!(!matches!(fleet.request(3, &[(1, 1)]), Some(Admission::Allow(_))), "the other side is a minority");
    }
}
