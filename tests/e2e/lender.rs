//! A limit of which Redis holds four fifths, while Redis is well, slow, gone and back: the limit holds throughout, and no
//! request waits for it.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Load, Options, Redis, Relay, Report};

use crate::support::{check_bound, everywhere, warm};

/// The quota of a slot.
const QUOTA: u64 = 300;

/// What the regions hold of it themselves.
const KEPT: u64 = 60;

/// No answer takes longer, whatever Redis does: far less than Redis is slowed by.
const LONGEST_ANSWER: Duration = Duration::from_secs(1);

/// A lender is given up within two failures, each of 50 ms, and is told of within a round or two.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(2);

/// A lender is trusted again after 2 s of answers, and found within the longest pause between attempts.
const TRUSTED_WITHIN: Duration = Duration::from_secs(6);

const PHASE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_and_no_request_waits_whatever_becomes_of_redis() {
    let Some(server) = Redis::start().await else { return };
    let relay = Relay::to(server.address).await;
    let document = Document::default()
        .lender("main", &relay.url())
        .limit("lent", &format!("key: global, rate: {QUOTA}/s, lender: main"));
    let fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let load = Load::start(&host, everywhere(&fleet, "lent", 450));
    tokio::time::sleep(PHASE).await;
    let well = (Duration::ZERO, load.elapsed());

    relay.slow_down(Duration::from_secs(2));
    tokio::time::sleep(GIVEN_UP_WITHIN).await;
    let from = load.elapsed();
    tokio::time::sleep(PHASE).await;
    let slow = (from, load.elapsed());

    relay.slow_down(Duration::ZERO);
    tokio::time::sleep(TRUSTED_WITHIN).await;
    let from = load.elapsed();
    tokio::time::sleep(PHASE).await;
    let back = (from, load.elapsed());

    drop(server);
    tokio::time::sleep(GIVEN_UP_WITHIN).await;
    let from = load.elapsed();
    tokio::time::sleep(PHASE).await;
    let gone = (from, load.elapsed());
    let report = load.stop().await;

    check_bound(&report.admissions(), "lent", QUOTA);
    let unexpected = report.other_than(&[200, 429, 503]);
    assert!(unexpected.is_empty(), "{unexpected:?}\n{}", report.summary());
    let slowest = report.samples.iter().map(|sample| sample.took).max().unwrap_or_default();
    assert!(slowest < LONGEST_ANSWER, "an answer took {slowest:?}");
    let rates = [well, slow, back, gone].map(|phase| admitted_per_slot(&report, phase));
    println!(
        "admitted per slot of {QUOTA}: well {}, slow {}, back {}, gone {}",
        rates[0], rates[1], rates[2], rates[3]
    );
    assert!(rates[0] > QUOTA * 3 / 4 && rates[2] > QUOTA * 3 / 4, "with its lender the limit is used: {rates:?}");
    assert!(rates[1] <= KEPT && rates[3] <= KEPT, "without it the regions have their own part: {rates:?}");
    assert!(rates[1] >= KEPT * 3 / 4 && rates[3] >= KEPT * 3 / 4, "and use it: {rates:?}");
    fleet_knows(&fleet);
}

/// The mean over the slots that lie wholly within a phase.
fn admitted_per_slot(report: &Report, (from, to): (Duration, Duration)) -> u64 {
    let within = report.samples.iter().filter(|sample| sample.at >= from && sample.at < to);
    let mut slots = std::collections::BTreeMap::<u64, u64>::new();
    for sample in within.filter(|sample| sample.outcome == Ok(200)) {
        sample.slots.iter().for_each(|(_, slot)| *slots.entry(*slot).or_default() += 1);
    }
    // The first and the last are cut by the phase.
    let whole: Vec<u64> = slots.values().copied().skip(1).take(slots.len().saturating_sub(2)).collect();
    whole.iter().sum::<u64>() / (whole.len() as u64).max(1)
}

/// Operators see who cannot be counted on, and what that means.
fn fleet_knows(fleet: &Fleet) {
    let answer = fleet.json(&["limits"]);
    let lenders: Vec<bool> = answer["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|node| node["lenders"]["main"]["reachable"].as_bool())
        .collect();
    assert_eq!(lenders, [false; 3], "{answer:#}");
    assert_eq!(answer["budgets"][0]["policy_in_force"], true, "{answer:#}");
    let text = fleet.run(&["limits"]);
    let text = String::from_utf8_lossy(&text.stdout);
    assert!(text.contains("cannot reach lender main"), "{text}");
}
