//! Bounds held against cases worked out by hand, in a fleet of three regions 250 ms apart.

use portolan_config::{Algorithm, OnPartition, Period, Window};
use portolan_model::{Rate, Ratio};
use proptest::prelude::*;

use super::*;

const RTT: Duration = Duration::from_millis(250);

fn fixed(rate: &str) -> Algorithm {
    let Rate { count, per } = rate.parse().expect("a rate");
    Algorithm::FixedWindow { quota: count, window: Window::Length(per) }
}

fn sliding(rate: &str) -> Algorithm {
    let Rate { count, per } = rate.parse().expect("a rate");
    Algorithm::SlidingWindow { quota: count, window: per }
}

fn strict(rate: &str) -> Promise {
    Promise::strict(fixed(rate))
}

/// Admitted per slot and in any span, and refused wrongly: healthy, then in a partition.
fn figures(promise: &Promise) -> [(u64, Option<u64>, u64); 2] {
    let bounds = Bounds::of(promise, &Fleet::new(3, RTT, 3));
    [bounds.healthy, bounds.partition].map(|case| {
        (case.admitted_per_slot.units, case.admitted_in_any_window.map(|bound| bound.units), case.refused_wrongly.units)
    })
}

fn refused_alone(promise: &Promise) -> u64 {
    Bounds::of(promise, &Fleet::new(3, RTT, 3)).refused_alone.units
}

#[test]
fn a_strict_limit_is_never_exceeded_and_refuses_what_a_region_has_lent_or_alone_does_not_own() {
    let check = |promise: &Promise, quota, alone| {
        assert_eq!(figures(promise), [(quota, Some(2 * quota), quota); 2], "{promise:?}");
        assert_eq!(refused_alone(promise), alone, "{promise:?}");
    };
    // Shares 334, 333, 333; 1000 - 333.
    check(&strict("1000/s"), 1000, 667);
    // Shares 600, 300, 100.
    check(&Promise { weights: vec![6, 3, 1], ..strict("1000/s") }, 1000, 900);
    check(&Promise { on_partition: OnPartition::Closed, ..strict("1000/s") }, 1000, 1000);
    // Shares 1, 1, 0: one region lives on loans.
    check(&strict("2/s"), 2, 2);
}

#[test]
fn a_limit_that_regions_do_not_lend_refuses_what_the_smallest_share_leaves() {
    // Shares 20, 20, 20.
    let long = Promise::strict(sliding("60/min"));
    assert_eq!(figures(&long), [(60, Some(120), 40); 2]);
    assert_eq!(refused_alone(&long), 40);
    // Until the others count as unheard.
    let open = Promise { on_partition: OnPartition::OPEN, ..long };
    assert_eq!(figures(&open), [(60, Some(120), 40), (180, Some(360), 40)]);
    assert_eq!(refused_alone(&open), 0);
}

#[test]
fn a_wait_for_loans_helps_nobody_at_the_end_of_a_window() {
    let waiting = Promise { borrow_wait: Duration::from_secs(1), ..strict("10/min") };
    let refused = Bounds::of(&waiting, &Fleet::new(3, RTT, 1)).healthy.refused_wrongly;
    assert_eq!(refused.units, 10);
    assert!(refused.why.contains("but not in the last 125ms of a window"), "{}", refused.why);
}

#[test]
fn overdraft_adds_a_part_of_every_share_and_at_least_one() {
    let check = |rate, percent: u32, expected| {
        let promise = Promise { overdraft: Ratio::from_parts(percent * 100), ..strict(rate) };
        assert_eq!(Bounds::of(&promise, &Fleet::new(3, RTT, 1)).overdraft.map(|bound| bound.units), expected);
        assert_eq!(figures(&promise)[1].0, promise.algorithm.quota() + expected.unwrap_or(0), "{rate} {percent}");
    };
    check("1000/s", 0, None);
    // 33 + 33 + 33.
    check("1000/s", 10, Some(99));
    // 1 + 1 + 1.
    check("10/s", 10, Some(3));
    // 668 + 666 + 666: as much as two regions more.
    check("1000/s", 200, Some(2000));
    // No region goes beyond the limit by itself: 1 + 1 + 1 would be 4 with the limit.
    check("1/s", 100, Some(2));
}

#[test]
fn an_open_limit_admits_itself_once_per_region_at_most() {
    let open = |cap: Option<u32>| Promise {
        on_partition: OnPartition::Open { cap: cap.map(Ratio::from_parts) },
        ..strict("1000/s")
    };
    assert_eq!(figures(&open(None)), [(1000, Some(2000), 1000), (3000, Some(6000), 1000)]);
    assert_eq!(refused_alone(&open(None)), 0);
    // A part of two regions owns 667, and 1.2 times that is 800; one of the three had borrowed the whole before the cut.
    // A lone region of 333 reaches 399.
    assert_eq!(figures(&open(Some(12_000)))[1], (2600, Some(5200), 1000));
    assert_eq!(refused_alone(&open(Some(12_000))), 601);
    let parts = |cap| Bounds::of(&open(cap), &Fleet::new(3, RTT, 1)).parts;
    assert_eq!(parts(None), [2000, 3000]);
    // The part that had borrowed everything spends 1000, the others 1.2 times the 667 that they own: 800.
    assert_eq!(parts(Some(12_000)), [1800, 1800]);
    assert!(Bounds::of(&strict("5/s"), &Fleet::new(3, RTT, 1)).parts.is_empty());
}

#[test]
fn a_sliding_window_holds_its_estimate_and_may_nearly_double() {
    let bounds = Bounds::of(&Promise::strict(sliding("1000/s")), &Fleet::new(3, RTT, 1));
    let estimate = |promise: Promise| Bounds::of(&promise, &Fleet::new(3, RTT, 1)).estimate.map(|bound| bound.units);
    let strict = Promise::strict(sliding("1000/s"));
    assert_eq!(estimate(strict.clone()), Some(1000));
    // 33 + 33 + 33 beyond the rights, and the whole in each of three regions.
    assert_eq!(estimate(Promise { overdraft: Ratio::from_parts(1000), ..strict.clone() }), Some(1099));
    assert_eq!(estimate(Promise { on_partition: OnPartition::OPEN, ..strict }), Some(3000));
    assert_eq!(bounds.healthy.admitted_in_any_window.map(|bound| bound.units), Some(2000));
    assert_eq!(bounds.skewed.map(|bound| bound.units), Some(3000));
    assert!(bounds.healthy.refused_wrongly.why.contains("until others have lent"));
    let long = Bounds::of(&Promise::strict(sliding("1000/min")), &Fleet::new(3, RTT, 1));
    assert!(long.healthy.refused_wrongly.why.starts_with("regions do not lend"));
    // Three windows that may have been spent, and the one that they carry over into.
    assert_eq!((bounds.restart.units, bounds.restart_lasts), (4 * 1000, Some(Duration::from_secs(4))));
}

#[test]
fn a_token_bucket_admits_its_burst_and_what_drips_in() {
    let rate = "600/min".parse().expect("a rate");
    let bucket = Promise::strict(Algorithm::TokenBucket { rate, burst: 50 });
    assert_eq!(figures(&bucket), [(650, Some(650), 650); 2]);
    // Shares 200 + 17, 200 + 17 and 200 + 16.
    assert_eq!(refused_alone(&bucket), 434);
    // 5 more drip in when a clock is set forward by half a second.
    let bounds = Bounds::of(&bucket, &Fleet::new(3, RTT, 1));
    assert_eq!(bounds.skewed.map(|bound| bound.units), Some(655));
    // The burst, and of 600 what drips in 3.5 s of a minute.
    assert_eq!((bounds.restart.units, bounds.restart_lasts), (50 + 35, Some(Duration::from_millis(3500))));
    let open = Promise { on_partition: OnPartition::OPEN, ..bucket };
    assert_eq!(figures(&open)[1].0, 1950);
    // Each of the three regions fills at the whole rate.
    let bounds = Bounds::of(&open, &Fleet::new(3, RTT, 1));
    assert_eq!(bounds.skewed.map(|bound| bound.units), Some(1965));
}

#[test]
fn a_concurrency_limit_bounds_rights_and_a_cut_node_works_on_what_it_holds() {
    let parallel = Promise::strict(Algorithm::Concurrency { limit: 100 });
    assert_eq!(figures(&parallel), [(100, None, 67), (100, None, 67)]);
    let restart = |nodes| {
        let bounds = Bounds::of(&parallel, &Fleet::new(3, RTT, nodes));
        (bounds.restart.units, bounds.restart_lasts)
    };
    // With others it depends on when they tell what they have in flight.
    assert_eq!((restart(1), restart(3)), ((0, Some(Duration::ZERO)), (34, None)));
    let cut = |nodes| Bounds::of(&parallel, &Fleet::new(3, RTT, nodes)).cut_node.map(|bound| bound.units);
    assert_eq!((cut(1), cut(3)), (None, Some(200)));
    // In each of three regions: what the node that was cut off works on, and the whole limit again.
    let open = Promise { on_partition: OnPartition::OPEN, ..parallel };
    assert_eq!(Bounds::of(&open, &Fleet::new(3, RTT, 3)).cut_node.map(|bound| bound.units), Some(600));
}

#[test]
fn a_failover_of_the_lender_may_lend_what_it_held_again() {
    // The regions keep 200 of 1000: 67, 67, 66.
    let lent = Promise { lent: true, ..strict("1000/s") };
    assert_eq!(figures(&lent), [(1000, Some(2000), 934), (1000, Some(2000), 934)]);
    let failover = |promise: &Promise, regions| {
        Bounds::of(promise, &Fleet::new(regions, RTT, 1)).failover.map(|bound| bound.units)
    };
    assert_eq!(failover(&lent, 3), Some(1800));
    // No region goes beyond the limit by itself.
    assert_eq!(failover(&lent, 1), Some(1000));
    // Beyond their shares 134 + 134 + 132.
    let overdrawn = Promise { overdraft: Ratio::from_parts(20_000), ..lent.clone() };
    assert_eq!(failover(&overdrawn, 3), Some(2200));
    assert_eq!(failover(&Promise { on_partition: OnPartition::OPEN, ..lent }, 3), Some(3000));
}

#[test]
fn overdraft_of_shares_that_follow_demand_is_that_of_the_worst_split() {
    let check = |rate, percent: u32, expected| {
        let split = Promise { weights: vec![8666, 666, 666], by_demand: true, ..strict(rate) };
        let promise = Promise { overdraft: Ratio::from_parts(percent * 100), ..split };
        let bounds = Bounds::of(&promise, &Fleet::new(3, RTT, 1));
        assert_eq!(bounds.overdraft.map(|bound| bound.units), Some(expected), "{rate} {percent}");
    };
    // Of 800, 120 and 80: 80 + 12 + 8.
    check("1000/s", 10, 100);
    // Shares of at least 6, of which a tenth is less than the one that each may take: 1 + 1 + 8 of 80.
    check("100/s", 10, 12);
    check("5/s", 10, 3);
}

#[test]
fn a_restart_costs_windows_or_what_a_mark_was_ahead() {
    let check = |promise: &Promise, units, lasts| {
        let bounds = Bounds::of(promise, &Fleet::new(3, RTT, 1));
        let lasts = Some(Duration::from_secs(lasts));
        assert_eq!((bounds.restart.units, bounds.restart_lasts), (units, lasts), "{promise:?}");
    };
    // Three windows: those that begin within 2 s, and the one under way. The others may have lent all of them.
    check(&strict("1000/s"), 3000, 3);
    // Under one mark for all keys; borrowed, too.
    check(&strict("600/min"), 600, 60);
    let day = Window::Calendar { period: Period::Day, zone: "UTC".to_owned() };
    // A civil day has up to 25 hours.
    check(&Promise::strict(Algorithm::FixedWindow { quota: 10_000, window: day }), 10_000, 90_000);
    // A share of 200 that counts in the next window, too.
    check(&Promise::strict(sliding("600/min")), 400, 120);
    let open = Promise { on_partition: OnPartition::OPEN, ..Promise::strict(sliding("600/min")) };
    check(&open, 1200, 120);
    check(&Promise::strict(Algorithm::Concurrency { limit: 100 }), 0, 0);
}

#[test]
fn a_dead_region_takes_what_it_had_borrowed_with_it() {
    let dead = |promise: &Promise| Bounds::of(promise, &Fleet::new(3, RTT, 1)).dead_region.units;
    assert_eq!(dead(&strict("1000/s")), 1000);
    assert_eq!(dead(&Promise::strict(sliding("600/min"))), 200);
    // A share of 67, and all that the lender held.
    assert_eq!(dead(&Promise { lent: true, ..strict("1000/s") }), 867);
    let parallel = Promise::strict(Algorithm::Concurrency { limit: 100 });
    assert_eq!(dead(&Promise { on_partition: OnPartition::Closed, ..parallel.clone() }), 100);
    let minority = Promise { on_partition: OnPartition::ClosedMinority, ..parallel };
    assert_eq!(dead(&minority), 34);
    // Without the largest the others are the minority.
    assert_eq!(dead(&Promise { weights: vec![2, 1, 1], ..minority }), 100);
}

#[test]
fn reclaim_is_named_for_limits_that_may_have_it() {
    let names = |promise: &Promise| Bounds::of(promise, &Fleet::new(3, RTT, 1)).dead_region.why.contains("reclaim");
    assert!(names(&strict("1000/s")));
    assert!(!names(&Promise::strict(Algorithm::Concurrency { limit: 100 })));
}

#[test]
fn a_request_that_costs_more_than_a_share_is_told_of() {
    let costly = |cost, promise: Promise| {
        let bounds = Bounds::of(&Promise { cost, ..promise }, &Fleet::new(3, RTT, 1));
        bounds.costly.map(|bound| (bound.units, bound.why.contains("never")))
    };
    assert_eq!(costly(333, strict("1000/s")), None);
    assert_eq!(costly(334, strict("1000/s")), Some((333, false)));
    assert_eq!(costly(201, Promise::strict(sliding("600/min"))), Some((200, true)));
    // A bucket pays a request from its burst.
    let bucket = Algorithm::TokenBucket { rate: "600/min".parse().expect("a rate"), burst: 50 };
    assert_eq!(costly(17, Promise::strict(bucket)), Some((16, false)));
}

#[test]
fn a_fleet_of_one_region_refuses_nothing_wrongly() {
    let bounds = Bounds::of(&strict("1000/s"), &Fleet::new(1, Duration::ZERO, 1));
    assert_eq!((bounds.healthy.refused_wrongly.units, bounds.dead_region.units), (0, 0));
    // One clock may be ahead of another in it, or step.
    assert_eq!(bounds.skewed.map(|bound| bound.units), Some(3000));
}

proptest! {
    #[test]
    fn bounds_of_any_limit_are_in_order(
        quota in 1..1_000_000_000u64,
        regions in 1..20usize,
        weights in proptest::collection::vec(0..100u32, 0..20),
        overdraft in 0..40_000u32,
        cap in proptest::option::of(10_000..30_000u32),
        policy in 0..4,
    ) {
        let on_partition = match policy {
            0 => OnPartition::Static,
            1 => OnPartition::Closed,
            2 => OnPartition::ClosedMinority,
            _ => OnPartition::Open { cap: cap.map(Ratio::from_parts) },
        };
        let window = Window::Length(Duration::from_secs(1));
        let promise = Promise {
            weights,
            overdraft: Ratio::from_parts(overdraft),
            on_partition,
            ..Promise::strict(Algorithm::FixedWindow { quota, window })
        };
        let bounds = Bounds::of(&promise, &Fleet::new(regions, RTT, 2));
        let (healthy, partition) = (bounds.healthy, bounds.partition);
        prop_assert!(quota <= healthy.admitted_per_slot.units);
        prop_assert!(healthy.admitted_per_slot.units <= partition.admitted_per_slot.units);
        prop_assert!(partition.admitted_per_slot.units <= quota * regions as u64);
        prop_assert!(healthy.refused_wrongly.units <= quota && partition.refused_wrongly.units <= quota);
        prop_assert!(bounds.refused_alone.units <= partition.refused_wrongly.units);
        prop_assert!(bounds.dead_region.units <= quota);
        prop_assert!(bounds.parts.iter().all(|parts| *parts <= partition.admitted_per_slot.units.max(healthy.admitted_per_slot.units)));
    }
}
