//! A drained region is no longer named, tells its clients to go, and serves those who stay.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Load, Options, until};

use crate::support::{everywhere, is_named, warm};

const DRAINED: &str = "eu-west";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_moves_clients_away_and_costs_none_of_them_a_request() {
    let fleet = Fleet::start(Options { document: Some(Document::default().yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    let mut one = host.h1(fleet.https(DRAINED)).await.expect("a connection");
    assert!(!one.get("/free/x", None).await.expect("an answer").headers.contains_key("connection"));
    let load = Load::start(&host, everywhere(&fleet, "free", 150));

    fleet.json(&["drain", DRAINED, "--reason", "upgrade of the rack"]);
    for region in fleet.regions() {
        until(&format!("{region} to stop naming the drained region"), Duration::from_secs(5), || async {
            is_named(&fleet, region, DRAINED).await.filter(|named| !named)
        })
        .await;
    }
    let told = until("an HTTP/1.1 client to be told to go", Duration::from_secs(5), || async {
        let mut one = host.h1(fleet.https(DRAINED)).await.ok()?;
        one.get("/free/x", None).await.ok().filter(|answer| answer.headers.contains_key("connection"))
    })
    .await;
    assert_eq!((told.status.as_u16(), &told.headers["connection"]), (200, &"close".parse().expect("a value")));
    let status = fleet.status("us-east").expect("a status");
    assert_eq!(status["regions"][DRAINED]["drain"]["reason"], "upgrade of the rack");
    assert_eq!(status["regions"][DRAINED]["drain"]["author"], "developer");

    fleet.json(&["drain", "us-east", "--reason", "upgrade"]);
    let last = fleet.run(&["drain", "ap-southeast", "--reason", "upgrade"]);
    assert_eq!(last.status.code(), Some(1), "the last serving region was drained");
    let complaint = String::from_utf8_lossy(&last.stderr).into_owned();
    assert!(complaint.contains("last"), "{complaint}");
    for region in ["us-east", DRAINED] {
        fleet.json(&["restore", region]);
    }
    until("the region to be named again", Duration::from_secs(10), || async {
        is_named(&fleet, "us-east", DRAINED).await.filter(|named| *named)
    })
    .await;
    let report = load.stop().await;
    let failed = report.other_than(&[200]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
}
