//! Limits hold over `kill -9` and restart, of one node and of all; a first start serves its full limits at once.

use std::time::Duration;

use portolan_tests::{Admissions, Document, Fleet, Load, Options, until};

use crate::support::{check_bound, everywhere, is_limit, warm};

const SECOND: u64 = 60;
const MINUTE: u64 = 600;

/// What the first slots admit at least, mean in percent of the limit.
const FULL: u64 = 60;

fn document() -> Document {
    Document::default()
        .limit("second", &format!("key: global, rate: {SECOND}/s"))
        .limit("minute", &format!("key: global, rate: {MINUTE}/min"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_slot_exceeds_its_limit_over_restarts_and_a_first_start_serves_in_full() {
    let mut fleet = Fleet::start(Options { document: Some(document().yaml()), ..Options::default() });
    let host = fleet.host();
    let mut targets = everywhere(&fleet, "second", 2 * u32::try_from(SECOND).expect("small"));
    targets.extend(everywhere(&fleet, "minute", 60));
    let load = Load::start(&host, targets);
    tokio::time::sleep(Duration::from_secs(6)).await;
    fleet.kill("eu-west");
    tokio::time::sleep(Duration::from_millis(300)).await;
    fleet.restart("eu-west");
    tokio::time::sleep(Duration::from_secs(8)).await;
    fleet.kill_all();
    fleet.up();
    warm(&fleet, &host).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let report = load.stop().await;
    println!("{}", report.summary());
    let admissions = report.admissions();
    check_bound(&admissions, "second", SECOND);
    check_bound(&admissions, "minute", MINUTE);
    check_first_slots(&admissions);
    until("every region to admit again", Duration::from_secs(5), || async {
        for region in fleet.regions() {
            let answer = host.get(fleet.https(region), "/second/x", None).await.ok()?;
            (answer.status == 200).then_some(())?;
        }
        Some(())
    })
    .await;
}

/// The first whole slots after the first start, before anything was killed, are used: no share is held back.
fn check_first_slots(admissions: &Admissions) {
    let slots: Vec<(u64, u64)> = admissions
        .iter()
        .filter(|((key, _), _)| is_limit(key, "second"))
        .map(|((_, slot), count)| (*slot, *count))
        .skip(1)
        .take(3)
        .collect();
    let admitted: u64 = slots.iter().map(|(_, count)| count).sum();
    // Under such pressure some units are on their way from region to region when their slot ends.
    assert!(admitted * 100 >= slots.len() as u64 * SECOND * FULL, "first slots are not full: {slots:?}");
}
