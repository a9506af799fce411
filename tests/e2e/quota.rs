//! A quota of a day holds over `kill -9` of every node, twice.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Load, Options, Report};

use crate::support::{check_bound, everywhere, is_limit, warm};

/// What the lives ask for is twice as much.
const QUOTA: u64 = 300;

/// Requests per second over all regions.
const RATE: u32 = 60;

/// Load of each life of the fleet; those before the last end by a crash amid the load.
const LIVES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(2), Duration::from_secs(6)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_a_day_survives_the_crash_of_every_node() {
    let document = Document::default().limit("daily", &format!("key: global, quota: {QUOTA}/day"));
    let mut fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let mut all = Report::default();
    for (life, length) in LIVES.into_iter().enumerate() {
        if life > 0 {
            fleet.up();
        }
        let host = fleet.host();
        warm(&fleet, &host).await;
        let load = Load::start(&host, everywhere(&fleet, "daily", RATE));
        tokio::time::sleep(length).await;
        if life + 1 < LIVES.len() {
            fleet.kill_all();
        }
        let report = load.stop().await;
        println!("life {life}: {}", report.summary());
        all.samples.extend(report.samples);
    }
    let admissions = all.admissions();
    check_bound(&admissions, "daily", QUOTA);
    let days: Vec<u64> =
        admissions.iter().filter(|((key, _), _)| is_limit(key, "daily")).map(|(_, count)| *count).collect();
    println!("admitted per day: {days:?} of {QUOTA}");
}
