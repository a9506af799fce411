//! One region is cut off for 20 s under twice the load that the limits allow.

use std::time::{Duration, Instant};

use portolan_tests::{Document, Fleet, Load, Options, until};

use crate::support::{
    agreement, apply, check_bound, check_served_throughout, converge, dns_answers, everywhere, is_named, warm, write,
};

/// The region that is cut off; not the first by name, so that nothing hangs on an order.
const CUT: &str = "eu-west";

/// Time of load before the cut.
const BEFORE: Duration = Duration::from_secs(5);

/// Length of the cut.
const CUT_FOR: Duration = Duration::from_secs(20);

/// One revision, one leader and equal digests of live slots, once the cut is healed and the load has stopped.
const AGREED_WITHIN: Duration = Duration::from_secs(3);

/// A peer is stale after 500 ms or three rounds and a round trip; the rest is slack for a busy machine.
const DETECTED_WITHIN: Duration = Duration::from_secs(2);

/// Of so many requests one may be left unsent by a busy test machine: the load stays far above the limits.
const MOST_SKIPPED: usize = 20;

fn document() -> Document {
    Document::default()
        .limit("large", "key: global, rate: 1000/s")
        .limit("small", "key: global, rate: 20/s")
        .limit("hourly", "key: global, rate: 1000000/h")
        .limit("open", "key: global, rate: 30/s, on_partition: open")
        .limit("shut", "key: global, rate: 30/s, on_partition: closed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_off_region_keeps_serving_within_every_limit_and_agrees_after_the_heal() {
    let document = document();
    let arguments = ["--wan", "--loss", "0.5%"].map(str::to_owned).to_vec();
    let fleet = Fleet::start(Options { arguments, document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let mut targets = everywhere(&fleet, "large", 2000);
    targets.extend(everywhere(&fleet, "small", 40));
    targets.extend(everywhere(&fleet, "hourly", 30));
    targets.extend(everywhere(&fleet, "open", 60));
    targets.extend(everywhere(&fleet, "shut", 20));
    let load = Load::start(&host, targets);
    tokio::time::sleep(BEFORE).await;

    fleet.json(&["wan", "cut", CUT]);
    let cut_at = load.elapsed();
    // The majority accepts a change meanwhile; the cut-off side must learn of it after the heal.
    let changed = write(&fleet, "changed.yaml", &document.clone().comment("during the cut"));
    let revision = until("the majority to accept a change", Duration::from_secs(10), || async {
        apply(&fleet, &changed).await.ok()
    })
    .await;
    assert_eq!(revision, 2);
    until("the majority's DNS to stop naming the cut-off region", Duration::from_secs(15), || async {
        is_named(&fleet, "us-east", CUT).await.filter(|named| !named)
    })
    .await;
    tokio::time::sleep(CUT_FOR.saturating_sub(load.elapsed() - cut_at)).await;

    fleet.json(&["wan", "heal"]);
    let (healed, healed_at) = (Instant::now(), load.elapsed());
    // Digests of slots that still move cannot be compared: the clients pause while the nodes settle, and on a busy machine
    // their last answers take a while.
    let report = load.stop().await;
    let stopped = Instant::now();
    converge(&fleet, AGREED_WITHIN).await;
    println!("all regions agree {:?} after the heal, {:?} after the load", healed.elapsed(), stopped.elapsed());
    let views = agreement(&fleet, &fleet.regions()).await.expect("all answer");
    assert!(views.iter().all(|view| view.contains("\"revision\":2")), "{views:?}");
    until("all regions to give the same DNS answers", Duration::from_secs(15), || async {
        let mut all = Vec::new();
        for region in fleet.regions() {
            all.push(dns_answers(&fleet, region).await?);
        }
        let named = is_named(&fleet, "us-east", CUT).await?;
        (named && all.windows(2).all(|pair| pair[0] == pair[1])).then_some(())
    })
    .await;

    println!("{}", report.summary());
    let admissions = report.admissions();
    check_bound(&admissions, "large", 1000);
    check_bound(&admissions, "small", 20);
    check_bound(&admissions, "hourly", 1_000_000);
    check_bound(&admissions, "open", 3 * 30);
    check_bound(&admissions, "shut", 30);
    for region in fleet.regions() {
        for limit in ["large", "small", "hourly", "open"] {
            check_served_throughout(&report, &format!("{limit} {region}"), Duration::from_secs(1), healed_at);
        }
        let name = format!("shut {region}");
        let during = cut_at + DETECTED_WITHIN..healed_at;
        let shut: Vec<_> = report.of(&name).filter(|sample| during.contains(&sample.at)).collect();
        assert!(shut.iter().all(|sample| sample.outcome == Ok(503)), "{name} was not closed: {shut:?}");
        assert!(!shut.is_empty());
    }
    let odd = report.other_than(&[200, 429, 503]);
    assert!(odd.is_empty(), "{:?}", &odd[..odd.len().min(5)]);
    assert!(report.skipped * MOST_SKIPPED < report.samples.len(), "the test machine is too slow: {}", report.summary());
}
