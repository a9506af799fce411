//! Regions lend to the one that seven tenths of the clients are nearest to; that region is cut off, and comes back.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use portolan_tests::{Document, Fleet, Load, Options, Report, Target};

use crate::support::{check_bound, check_served_throughout, is_limit, warm};

/// Where most clients are; it is this one that is cut off, with loans on their way.
const BUSY: &str = "eu-west";

/// Its part of the requests, in percent.
const PART: u32 = 70;

/// Limits, and requests per second for each, over all regions.
const LIMITS: [(&str, u64, u32); 2] = [("large", 1000, 1400), ("small", 20, 40)];

const BEFORE: Duration = Duration::from_secs(8);
const CUT_FOR: Duration = Duration::from_secs(12);
const AFTER: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loans_do_not_lift_a_limit_while_their_region_is_cut_off_and_comes_back() {
    let document = LIMITS.iter().fold(Document::default(), |document, (name, limit, _)| {
        document.limit(name, &format!("key: global, rate: {limit}/s, on_partition: static"))
    });
    let arguments = ["--wan", "--loss", "0.5%"].map(str::to_owned).to_vec();
    let fleet = Fleet::start(Options { arguments, document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let load = Load::start(&host, targets(&fleet));
    tokio::time::sleep(BEFORE).await;
    fleet.json(&["wan", "cut", BUSY]);
    let cut_at = load.elapsed();
    tokio::time::sleep(CUT_FOR).await;
    fleet.json(&["wan", "heal"]);
    let healed_at = load.elapsed();
    tokio::time::sleep(AFTER).await;
    let end = load.elapsed();
    let report = load.stop().await;
    println!("{}", report.summary());

    let admissions = report.admissions();
    let share = |limit: u64| limit.div_ceil(fleet.regions().len() as u64);
    for (name, limit, _) in LIMITS {
        check_bound(&admissions, name, limit);
        let phases = [Duration::ZERO..cut_at, cut_at..healed_at, healed_at..end];
        let [before, during, after] = phases.map(|phase| mean_of_busy(&report, name, &phase));
        println!("{name}: {BUSY} admits {before} of {limit} per slot, cut off {during}, after the heal {after}");
        assert!(before > share(limit) && after > share(limit), "{name}: nothing is lent to {BUSY}");
        for region in fleet.regions() {
            check_served_throughout(&report, &format!("{name} {region}"), Duration::from_secs(1), end);
        }
    }
    let odd = report.other_than(&[200, 429, 503]);
    assert!(odd.is_empty(), "{:?}", &odd[..odd.len().min(5)]);
}

/// Requests for every limit, most of them in one region.
fn targets(fleet: &Fleet) -> Vec<Target> {
    let regions = fleet.regions();
    let rest = (100 - PART) / u32::try_from(regions.len() - 1).expect("a few regions");
    let stream = |region: &str, (limit, _, rate): (&str, u64, u32)| Target {
        name: format!("{limit} {region}"),
        address: fleet.https(region),
        path: format!("/{limit}/x"),
        token: None,
        rate: rate * if region == BUSY { PART } else { rest } / 100,
    };
    regions.iter().flat_map(|region| LIMITS.map(|limit| stream(region, limit))).collect()
}

/// What the busy region admits in a slot, mean over the slots that lie wholly within a phase.
fn mean_of_busy(report: &Report, limit: &str, phase: &Range<Duration>) -> u64 {
    let name = format!("{limit} {BUSY}");
    let mut slots = BTreeMap::<u64, u64>::new();
    for sample in report.of(&name).filter(|sample| phase.contains(&sample.at) && sample.outcome == Ok(200)) {
        for (_, slot) in sample.slots.iter().filter(|(key, _)| is_limit(key, limit)) {
            *slots.entry(*slot).or_default() += 1;
        }
    }
    // The first and the last are cut by the phase.
    let whole: Vec<u64> = slots.values().copied().skip(1).take(slots.len().saturating_sub(2)).collect();
    whole.iter().sum::<u64>() / (whole.len() as u64).max(1)
}
