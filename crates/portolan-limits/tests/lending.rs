//! What lending is worth for limits that are not fixed windows: how much of the limit regions admit whose demand is not
//! spread as their shares are, and that they never admit more. `tests/rows` has the table of fixed windows.

mod fleet;

use std::time::Duration;

use fleet::Fleet;
use portolan_limits::{Admission, Algorithm, Definition, LimitId};
use portolan_model::{Name, Rate};

/// Verdicts of one run, with the time in milliseconds.
struct Run {
    admitted: Vec<u64>,
    refused: Vec<u64>,
}

/// Three regions with equal shares; `demand` says how many a second each is asked for at a second of the run.
fn run(algorithm: Algorithm, seconds: u64, demand: impl Fn(u64) -> [u64; 3]) -> Run {
    let name = Name::new("uneven").expect("a name");
    let mut fleet = Fleet::new(3, vec![Definition::new(LimitId(1), name, algorithm)], 5);
    fleet.settle();
    let mut run = Run { admitted: Vec::new(), refused: Vec::new() };
    let mut due = [0; 3];
    for ms in 0..seconds * 1000 {
        for (at, rate) in demand(ms / 1000).into_iter().enumerate() {
            due[at] += rate;
            while due[at] >= 1000 {
                due[at] -= 1000;
                match fleet.request(at, &[(1, 1)]) {
                    Some(Admission::Allow(_)) => run.admitted.push(ms),
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
            let mut lowest = i64::MAX;
            for (count, at) in run.admitted.iter().enumerate() {
                let level = count as i64 * 1000 - *at as i64 * 300;
                lowest = lowest.min(level);
                assert!(level + 1000 - lowest <= burst as i64 * 1000, "burst {burst} at {at} ms");
            }
        }
        // Each alone, with a third of the rate, would admit 833 and refuse 407.
        let (least, most) = if burst < 300 { (850, 360) } else { (980, 60) };
        assert!(used >= least && refused <= most, "burst {burst}: {used} {refused}");
    }
}
