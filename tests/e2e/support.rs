//! What several tests ask of a fleet.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use portolan_tests::{Admin, Admissions, Document, Fleet, Host, Report, Target, dns, until};
use serde_json::Value;

/// Clients around the world, from the shipped networks: New York, Berlin, Tokyo, Cape Town, Jakarta.
const CLIENTS: [&str; 5] = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.2.1", "198.18.3.1"];

/// A stream of requests to `/PATH/x` in every region, `rate` per second over all of them.
pub fn everywhere(fleet: &Fleet, path: &str, rate: u32) -> Vec<Target> {
    let regions = fleet.regions();
    regions
        .iter()
        .map(|region| Target {
            name: format!("{path} {region}"),
            address: fleet.https(region),
            path: format!("/{path}/x"),
            token: None,
            rate: rate.div_ceil(u32::try_from(regions.len()).expect("a few regions")),
        })
        .collect()
}

/// Fails if the clients saw more than `limit` admissions in any slot of the limit called `name`.
pub fn check_bound(admissions: &Admissions, name: &str, limit: u64) {
    let slots: Vec<_> = admissions.iter().filter(|((key, _), _)| is_limit(key, name)).collect();
    assert!(!slots.is_empty(), "no slot of {name} was seen");
    let over: Vec<_> = slots.iter().filter(|(_, count)| **count > limit).collect();
    assert!(over.is_empty(), "{name} admitted more than {limit} in {over:?}");
}

/// Whether a slot's key, `NAME;id=ID`, is of the limit called `name`.
pub fn is_limit(key: &str, name: &str) -> bool {
    key.split(';').next() == Some(name)
}

/// Writes a document into the scratch folder, moved to the network of the fleet.
pub fn write(fleet: &Fleet, file: &str, document: &Document) -> PathBuf {
    let path = fleet.scratch().join(file);
    std::fs::write(&path, fleet.network.moved(&document.yaml())).expect("the document is written");
    path
}

/// Applies a file and returns the revision, or the complaint.
pub async fn apply(fleet: &Fleet, file: &Path) -> Result<u64, String> {
    finish_apply(start_apply(fleet, file)).await
}

/// Starts to apply a file.
pub fn start_apply(fleet: &Fleet, file: &Path) -> Child {
    let mut command = fleet.command(&["apply", "--output", "json"]);
    command.arg(file).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts")
}

/// Waits for what [`start_apply`] began.
pub async fn finish_apply(pending: Child) -> Result<u64, String> {
    let output = tokio::task::spawn_blocking(move || pending.wait_with_output()).await.expect("joined").expect("ended");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    answer["revision"].as_u64().ok_or_else(|| format!("no revision in {answer}"))
}

/// What the nodes of these regions say of revision, leader and live slots; nothing while one of them does not answer.
pub async fn agreement(fleet: &Fleet, regions: &[&str]) -> Option<BTreeSet<String>> {
    let mut views = BTreeSet::new();
    for region in regions {
        let mut admin = Admin::connect(&fleet.dir(), fleet.admin(region)).await.ok()?;
        let mut answer = admin.get("/v1/digests").await.ok()?;
        let own = answer.as_object_mut()?;
        own.remove("node");
        views.insert(answer.to_string());
    }
    Some(views)
}

/// Waits until all regions agree; fails after `deadline`. Returns how long it took.
pub async fn converge(fleet: &Fleet, deadline: Duration) -> Duration {
    let started = std::time::Instant::now();
    loop {
        let views = agreement(fleet, &fleet.regions()).await;
        if views.as_ref().is_some_and(|views| views.len() == 1) {
            return started.elapsed();
        }
        assert!(started.elapsed() < deadline, "no agreement within {deadline:?}: {views:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the DNS of `region` answers to clients around the world.
pub async fn dns_answers(fleet: &Fleet, region: &str) -> Option<Vec<Vec<IpAddr>>> {
    let mut answers = Vec::new();
    for client in CLIENTS {
        let client = client.parse().expect("an address");
        answers.push(dns(fleet.dns(region), "api.example.test", client).await.ok()?);
    }
    Some(answers)
}

/// Whether the DNS of `asked` gives some client the address of `region`.
pub async fn is_named(fleet: &Fleet, asked: &str, region: &str) -> Option<bool> {
    let address = fleet.https(region).ip();
    let answers = dns_answers(fleet, asked).await?;
    assert!(answers.iter().all(|answer| !answer.is_empty()), "an empty answer from {asked}");
    Some(answers.iter().any(|answer| answer.contains(&address)))
}

/// Waits until a request to every region is answered with 200, so that later failures mean something.
pub async fn warm(fleet: &Fleet, host: &Host) {
    for region in fleet.regions() {
        until(&format!("a first answer from {region}"), Duration::from_secs(10), || async {
            let answer = host.get(fleet.https(region), "/free/warm", None).await;
            answer.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }
}

/// Fails unless `name` was answered with 200 in every second between `from` and `to`.
pub fn check_served_throughout(report: &Report, name: &str, from: Duration, to: Duration) {
    let seconds: BTreeSet<u64> =
        report.of(name).filter(|sample| sample.outcome == Ok(200)).map(|sample| sample.at.as_secs()).collect();
    let missing: Vec<u64> = (from.as_secs() + 1..to.as_secs()).filter(|second| !seconds.contains(second)).collect();
    assert!(missing.is_empty(), "{name} served nothing in seconds {missing:?}\n{}", report.summary());
}
