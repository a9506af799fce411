//! What lending is worth for limits that are not fixed windows: how much of the limit regions admit whose demand is not
//! spread as their shares are, and that they never admit more. `tests/rows` has the table of fixed windows.

mod fleet;

use std::{collections::BTreeMap, time::Duration};

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Definition, LimitId, Window};
use portolan_model::{Name, Rate};

/// Verdicts of one run, with the time in milliseconds.
struct Run {
    admitted: Vec<u64>,
    refused: Vec<u64>,
    /// Of each admission: the slot that was charged, and how many milliseconds into it by the region's clock.
    slots: Vec<(u64, u64)>,
}

/// Three regions with equal shares; `demand` says how many a second each is asked for at a second of the run.
fn run(algorithm: Algorithm, seconds: u64, demand: impl Fn(u64) -> [u64; 3]) -> Run {
    let name = Name::new("uneven").expect("a name");
    let mut fleet = Fleet::new(3, vec![Definition::new(LimitId(1), name, algorithm)], 5);
    fleet.settle();
    let mut run = Run { admitted: Vec::new(), refused: Vec::new(), slots: Vec::new() };
    let mut due = [0; 3];
    for ms in 0..seconds * 1000 {
        for (at, rate) in demand(ms / 1000).into_iter().enumerate() {
            due[at] += rate;
            while due[at] >= 1000 {
                due[at] -= 1000;
                match fleet.request(at, &[(1, 1)]) {
                    Some(Admission::Allow(charges)) => {
                        let slot = charges[0].slot;
                        run.admitted.push(ms);
                        run.slots.push((slot, fleet.now(at).wall.as_unix_millis().saturating_sub(slot * 1000)));
                    }
                    _ => run.refused.push(ms),
                }
            }
        }
        fleet.run(1);
    }
    run
}

/// Of so many verdicts from `since` on, in thousandths.
fn part(of: &[u64], whole: u64, since: u64) -> u64 {
    of.iter().filter(|&&at| at >= since * 1000).count() as u64 * 1000 / whole
}

fn bucket(per_second: u64, burst: u64) -> Algorithm {
    Algorithm::TokenBucket { rate: Rate { count: per_second, per: Duration::from_secs(1) }, burst }
}

/// One region is asked for most, another one every four seconds.
fn rotating(second: u64) -> [u64; 3] {
    let mut demand = [30, 30, 30];
    demand[(second / 4 % 3) as usize] = 210;
    demand
}

#[test]
fn rule_8_regions_lend_unspent_tokens_and_admit_in_no_interval_more_than_one_bucket() {
    for burst in [60, 300, 900] {
        // 1.5 times the rate, two thirds of it in one region.
        let over = run(bucket(300, burst), 12, |_| [300, 90, 60]);
        let used = part(&over.admitted, 300 * 8, 4);
        // 0.9 times the rate, in turns.
        let below = run(bucket(300, burst), 24, rotating);
        let refused = part(&below.refused, 270 * 20, 4);
        println!("burst {burst}: admits {used} thousandths of the rate in overload, refuses {refused} below the rate");
        for run in [&over, &below] {
            assert_bucket(&run.admitted, 300, burst);
        }
        // Each alone, with a third of the rate, would admit 833 and refuse 407.
        let (least, most) = if burst < 300 { (950, 80) } else { (970, 30) };
        assert!(used >= least && refused <= most, "burst {burst}: {used} {refused}");
    }
}

/// Any span sees the burst at most, and what drips in meanwhile.
fn assert_bucket(admitted: &[u64], per_second: u64, burst: u64) {
    let mut lowest = i64::MAX;
    for (count, at) in admitted.iter().enumerate() {
        let level = count as i64 * 1000 - (*at * per_second) as i64;
        lowest = lowest.min(level);
        assert!(level + 1000 - lowest <= burst as i64 * 1000, "burst {burst} at {at} ms");
    }
}

#[test]
fn rule_8_a_region_that_alone_is_asked_is_lent_the_rate_of_all_others_whatever_the_burst() {
    for burst in [12, 30, 100, 300, 900] {
        let over = run(bucket(300, burst), 12, |_| [450, 0, 0]);
        let used = part(&over.admitted, 300 * 8, 4);
        let below = run(bucket(300, burst), 12, |_| [250, 0, 0]);
        let refused = part(&below.refused, 250 * 8, 4);
        println!("burst {burst}: admits {used} thousandths of the rate in overload, refuses {refused} below the rate");
        for run in [&over, &below] {
            assert_bucket(&run.admitted, 300, burst);
        }
        assert!(used >= 950 && refused <= 10, "burst {burst}: {used} {refused}");
    }
}

#[test]
fn a_region_that_can_spend_nothing_of_its_own_is_lent_what_it_asks_for() {
    // Two units of three regions: the last one has none.
    let few = Algorithm::FixedWindow { quota: 2, window: Window::Length(Duration::from_secs(1)) };
    let run = run(few, 12, |_| [0, 0, 2]);
    let used = part(&run.admitted, 2 * 8, 4);
    println!("few: admits {used} thousandths of the limit");
    assert!(used >= 900, "{used}");
}

#[test]
fn rule_7_a_sliding_window_that_one_or_two_of_three_regions_are_asked_for_refuses_little_while_it_has_room() {
    for demand in [[145, 145, 0], [280, 0, 0], [140, 100, 30]] {
        let sliding = Algorithm::SlidingWindow { quota: 300, window: Duration::from_secs(1) };
        let run = run(sliding, 20, |_| demand);
        let refused = part(&run.refused, demand.iter().sum::<u64>() * 16, 4);
        println!("{demand:?}: refuses {refused} thousandths");
        assert!(refused <= 15, "{demand:?}: {refused}");
    }
}

#[test]
fn rule_7_regions_lend_slots_in_pairs_and_hold_the_estimate_to_the_limit() {
    let sliding = || Algorithm::SlidingWindow { quota: 300, window: Duration::from_secs(1) };
    let over = run(sliding(), 14, |_| [300, 90, 60]);
    let used = part(&over.admitted, 300 * 8, 6);
    let below = run(sliding(), 24, rotating);
    let refused = part(&below.refused, 270 * 20, 4);
    let turning = run(sliding(), 24, |second| rotating(second).map(|rate| rate * 2));
    for run in [&over, &below, &turning] {
        assert_estimate(&run.slots, 300);
    }
    println!("sliding: admits {used} thousandths of the limit in overload, refuses {refused} below the limit");
    // Each alone, with a third of the limit, would admit 833 and refuse 407.
    assert!(used >= 960 && refused <= 300, "{used} {refused}");
}

/// At each admission, the regions' count of the slot before that still weighs in and of this one stay within the limit.
fn assert_estimate(slots: &[(u64, u64)], limit: u64) {
    let mut counts = BTreeMap::<u64, u64>::new();
    for &(slot, into) in slots {
        *counts.entry(slot).or_default() += 1;
        let of = |slot| counts.get(&slot).copied().unwrap_or(0);
        let estimate = of(slot - 1) * 1000u64.saturating_sub(into) + of(slot) * 1000;
        assert!(estimate <= limit * 1000, "{estimate} thousandths {into} ms into slot {slot}");
    }
}

#[test]
fn what_counts_as_spent_after_a_restart_is_asked_for_by_nobody() {
    let window = Window::Length(Duration::from_secs(600));
    let name = Name::new("long").expect("a name");
    let definition = Definition::new(LimitId(1), name, Algorithm::FixedWindow { quota: 36_000, window });
    // What a key may have spent without a mark is presumed; of what the one that starts again has spent there is one.
    for busy in [0, 1] {
        let mut fleet = Fleet::new(2, vec![definition.clone()], 5);
        fleet.settle();
        let lent = |fleet: &Fleet| fleet.limits(0).overview(fleet.now(0))[0].tally.lent;
        for _ in 0..6000 {
            fleet.request(busy, &[(1, 1)]);
            fleet.run(1);
        }
        let serve = |fleet: &mut Fleet, seconds: u64| {
            for _ in 0..seconds * 20 {
                fleet.request(0, &[(1, 1)]);
                fleet.run(50);
            }
        };
        serve(&mut fleet, 5);
        let before = lent(&fleet);
        fleet.crash(1);
        serve(&mut fleet, 1);
        fleet.restart(1);
        serve(&mut fleet, 20);
        assert_eq!(lent(&fleet) - before, 0, "region {busy} had spent");
    }
}

#[test]
fn rate_is_lent_again_after_clocks_were_set_forward_by_months() {
    const SIXTY_DAYS_MS: i64 = 60 * 86_400_000;
    let name = Name::new("uneven").expect("a name");
    let mut fleet = Fleet::new(2, vec![Definition::new(LimitId(1), name, bucket(300, 30))], 5);
    fleet.settle();
    let serve = |fleet: &mut Fleet, seconds: u64| {
        let mut admitted = 0;
        for _ in 0..seconds * 250 {
            admitted += u64::from(matches!(fleet.request(0, &[(1, 1)]), Some(Admission::Allow(_))));
            fleet.run(4);
        }
        admitted / seconds
    };
    serve(&mut fleet, 4);
    let before = serve(&mut fleet, 4);
    (0..2).for_each(|at| fleet.regions[at].clock_ms = SIXTY_DAYS_MS);
    serve(&mut fleet, 15);
    let after = serve(&mut fleet, 4);
    assert!(before >= 220 && after >= 220, "{before} a second before, {after} after");
}
