//! `kill -9` of the leader during changes, and of a region under load.

use std::{collections::BTreeSet, time::Duration};

use portolan_tests::{Admin, Document, Fleet, Load, Options, until};

use crate::support::{apply, converge, everywhere, finish_apply, is_named, start_apply, warm, write};

const APPLIES: usize = 200;

/// The leader of the moment is killed while these changes are on their way; the first victim is back for the second.
const KILLS: [usize; 2] = [60, 140];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_revision_is_lost_with_the_leader() {
    let document = Document::default().limit("small", "key: global, rate: 20/s");
    let mut fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let mut acknowledged = BTreeSet::new();
    let mut killed: Option<String> = None;
    for round in 0..APPLIES {
        let file = write(&fleet, "next.yaml", &document.clone().comment(&format!("round {round}")));
        if round == APPLIES / 2
            && let Some(region) = killed.take()
        {
            fleet.restart(&region);
        }
        let outcome = if KILLS.contains(&round) {
            let leader = until("a leader", Duration::from_secs(5), || async { fleet.leader() }).await;
            let pending = start_apply(&fleet, &file);
            fleet.kill(&leader);
            killed = Some(leader);
            finish_apply(pending).await
        } else {
            apply(&fleet, &file).await
        };
        acknowledged.extend(outcome);
    }
    println!("{} of {APPLIES} changes were acknowledged", acknowledged.len());
    assert!(acknowledged.len() > APPLIES * 3 / 4, "only {} changes were acknowledged", acknowledged.len());
    fleet.restart(&killed.expect("a leader was killed"));
    converge(&fleet, Duration::from_secs(15)).await;
    for region in fleet.regions() {
        let mut admin = Admin::connect(&fleet.dir(), fleet.admin(region)).await.expect("the node answers");
        let history = admin.get("/v1/history").await.expect("a history");
        let entries = history["entries"].as_array().expect("entries").iter();
        let listed: BTreeSet<u64> = entries.filter_map(|entry| entry["revision"].as_u64()).collect();
        let lost: Vec<_> = acknowledged.difference(&listed).collect();
        assert!(lost.is_empty(), "{region} lost {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_a_region_costs_the_others_nothing() {
    const LOST: &str = "us-east";
    let document = Document::default().limit("small", "key: global, rate: 20/s");
    let mut fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    assert_eq!(is_named(&fleet, "eu-west", LOST).await, Some(true));
    let mut targets = everywhere(&fleet, "free", 300);
    targets.retain(|target| !target.name.ends_with(LOST));
    let load = Load::start(&host, targets);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fleet.kill(LOST);
    for region in ["ap-southeast", "eu-west"] {
        until(&format!("{region} to stop naming the lost region"), Duration::from_secs(10), || async {
            is_named(&fleet, region, LOST).await.filter(|named| !named)
        })
        .await;
    }
    let changed = write(&fleet, "changed.yaml", &document.comment("while one region is gone"));
    let revision = until("two regions to accept a change", Duration::from_secs(10), || async {
        apply(&fleet, &changed).await.ok()
    })
    .await;
    fleet.restart(LOST);
    until("the region to catch up", Duration::from_secs(15), || async {
        fleet.status(LOST).filter(|status| status["revision"] == revision && status["ready"] == true)
    })
    .await;
    until("the region to be named again", Duration::from_secs(15), || async {
        is_named(&fleet, "eu-west", LOST).await.filter(|named| *named)
    })
    .await;
    let report = load.stop().await;
    let failed = report.other_than(&[200]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
    converge(&fleet, Duration::from_secs(15)).await;
}
