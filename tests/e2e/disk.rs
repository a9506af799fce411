//! A full disk stops acceptance of new revisions, not traffic, and freeing space heals it.

use std::{process::Command, time::Duration};

use portolan_tests::{Document, Fleet, Load, Options, until};

use crate::support::{apply, check_bound, everywhere, warm, write};

/// Each node's data on 4 MiB of memory, in a mount namespace of its own.
const MOUNT: &str = "for node in ap-southeast-1 eu-west-1 us-east-1; do \
    mkdir -p $DIR/nodes/$node/data; mount -t tmpfs -o size=4m tmpfs $DIR/nodes/$node/data; done";

/// A document is this large, so that a few of them need space that the filler has taken.
const COMMENT: usize = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_changes_and_not_traffic() {
    let document = Document::default().limit("small", "key: global, rate: 20/s");
    let options = Options { namespace: Some(MOUNT.to_owned()), document: Some(document.yaml()), ..Options::default() };
    let fleet = Fleet::start(options);
    let host = fleet.host();
    warm(&fleet, &host).await;
    let mut targets = everywhere(&fleet, "free", 150);
    targets.extend(everywhere(&fleet, "small", 40));
    let load = Load::start(&host, targets);
    inside(&fleet, "for data in $DIR/nodes/*/data; do cat /dev/zero > $data/filler 2>/dev/null || true; done");
    let mut complaint = None;
    for round in 0..50 {
        let comment = format!("{round} {}", "x".repeat(COMMENT));
        let file = write(&fleet, "large.yaml", &document.clone().comment(&comment));
        if let Err(text) = apply(&fleet, &file).await {
            complaint = Some(text);
            break;
        }
    }
    let complaint = complaint.expect("changes are refused once the disks are full");
    assert!(complaint.contains("disk") && complaint.contains("full"), "{complaint}");
    // Traffic goes on over several windows of the limit and several renewals of what is durable.
    tokio::time::sleep(Duration::from_secs(5)).await;
    inside(&fleet, "rm $DIR/nodes/*/data/filler");
    let file = write(&fleet, "small.yaml", &document.clone().comment("after the heal"));
    let revision =
        until("changes to be accepted again", Duration::from_secs(20), || async { apply(&fleet, &file).await.ok() })
            .await;
    until("the change to be in force everywhere", Duration::from_secs(10), || async {
        let statuses = fleet.regions().map(|region| fleet.status(region));
        statuses.iter().all(|status| status.as_ref().is_some_and(|s| s["revision"] == revision)).then_some(())
    })
    .await;
    let report = load.stop().await;
    println!("{}", report.summary());
    let failed = report.other_than(&[200, 429]);
    assert!(failed.is_empty(), "{}\n{:?}", report.summary(), &failed[..failed.len().min(5)]);
    check_bound(&report.admissions(), "small", 20);
}

/// Runs a script in the mount namespace of the fleet.
fn inside(fleet: &Fleet, script: &str) {
    let target = fleet.up_id().to_string();
    let status = Command::new("nsenter")
        .args(["--target", &target, "--mount", "sh", "-c", script])
        .env("DIR", fleet.dir())
        .status()
        .expect("nsenter runs");
    assert!(status.success(), "{script}: {status}");
}
