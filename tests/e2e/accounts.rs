//! `portolan limits`: who used what, where, and what becomes of a region that is fenced.

use std::time::Duration;

use portolan_tests::{Document, Fleet, Options, until};
use serde_json::Value;

use crate::support::warm;

/// A change of shares takes two seconds from the last acknowledgement on, one for clocks, and the acknowledgements.
const MOVED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_who_used_what_where_and_can_fence_a_region() {
    let document = Document::default()
        .limit("hourly", "key: client, rate: 300/h, overrides: { 192.0.2.7: 30 }")
        .limit("quick", "key: global, rate: 30/s")
        .limit("tight", "key: client, rate: 3/h");
    let fleet = Fleet::start(Options { document: Some(document.yaml()), ..Options::default() });
    let host = fleet.host();
    warm(&fleet, &host).await;
    for region in ["us-east", "us-east", "eu-west"] {
        let answer = host.get(fleet.https(region), "/hourly/x", None).await.expect("an answer");
        assert_eq!(answer.status, 200);
    }
    // Connections to loopback come from its first address.
    let client = "127.0.0.1".to_owned();
    until("both regions' use to be told", Duration::from_secs(10), || async {
        let answer = fleet.json(&["limits", "explain", &client, "--limit", "hourly"]);
        let regions = &answer["counters"][0]["usage"]["regions"];
        (regions["us-east"]["used"] == 2 && regions["eu-west"]["used"] == 1).then_some(())
    })
    .await;
    let text = output(&fleet, &["limits", "explain", &client, "--limit", "hourly"]);
    assert!(text.contains("3 of 300 used") && text.contains("policy static"), "{text}");
    let other = fleet.json(&["limits", "explain", "192.0.2.7"]);
    assert_eq!(
        (&other["counters"][0]["tier"], &other["counters"][0]["quota"]),
        (&"override 192.0.2.7".into(), &30.into())
    );
    for _ in 0..6 {
        host.get(fleet.https("us-east"), "/tight/x", None).await.expect("an answer");
    }
    until("what was refused to be counted", Duration::from_secs(10), || async {
        let answer = fleet.json(&["limits", "explain", &client, "--limit", "tight"]);
        let region = &answer["counters"][0]["usage"]["regions"]["us-east"];
        (region["refused"].as_u64() >= Some(3)).then_some(())
    })
    .await;
    let overview = output(&fleet, &["limits"]);
    assert!(overview.contains("hourly") && overview.contains("override 192.0.2.7"), "{overview}");
    let nobody = fleet.run(&["limits", "explain", "nobody", "--limit", "hourly"]);
    assert!(!nobody.status.success());
    fences(&fleet).await;
}

async fn fences(fleet: &Fleet) {
    let order = ["limits", "fence", "eu-west", "--reason", "flooded"];
    let refused = fleet.run(&order);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("`eu-west` is alive") && told.contains("--alive"), "{told}");
    let fenced = output(fleet, &[&order[..], &["--alive"]].concat());
    assert!(fenced.contains("eu-west is fenced"), "{fenced}");
    assert!(fenced.contains("quick: with the first window that begins at"), "{fenced}");
    let shares = |expected: [u64; 3]| async move {
        let answer = fleet.json(&["limits", "explain", "global", "--limit", "quick"]);
        let share = |region: &str| answer["counters"][0]["usage"]["regions"][region]["share"].as_u64();
        (["ap-southeast", "eu-west", "us-east"].map(share) == expected.map(Some)).then_some(())
    };
    until("the others to have its share", MOVED_WITHIN, || shares([15, 0, 15])).await;
    assert!(output(fleet, &["limits"]).contains("eu-west is fenced: flooded"));
    let history: Value = fleet.json(&["history"]);
    assert!(history.to_string().contains("fence limits of eu-west: flooded"), "{history}");
    output(fleet, &["limits", "unfence", "eu-west"]);
    until("the region to have its share back", MOVED_WITHIN, || shares([10, 10, 10])).await;
}

/// What a command that must succeed prints.
fn output(fleet: &Fleet, arguments: &[&str]) -> String {
    let output = fleet.run(arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}
