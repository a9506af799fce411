//! Processes of a fleet end with `up`, however it ends, and a lone region's orders find the majority.

use std::{process::Command, time::Duration};

use portolan_tests::{Fleet, Options, until};

use crate::support::apply;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_end_with_up_however_it_ends() {
    let mut fleet = Fleet::start(Options::default());
    for signal in ["-TERM", "-KILL"] {
        let children = processes(&fleet);
        assert_eq!(children.len(), 9, "three nodes and six demo services");
        let up = fleet.up_id().to_string();
        assert!(Command::new("kill").args([signal, &up]).status().expect("kill runs").success());
        fleet.wait_for_end();
        until(&format!("all children to end after {signal}"), Duration::from_secs(10), || async {
            children.iter().all(|id| !is_running(*id)).then_some(())
        })
        .await;
        let is_listed = fleet.dir().join("processes.json").exists();
        assert_eq!(is_listed, signal == "-KILL", "an end in order leaves no list of processes");
        fleet.up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_that_a_cut_off_node_cannot_carry_out_goes_to_the_next() {
    let arguments = vec!["--wan".to_owned()];
    let fleet = Fleet::start(Options { arguments, ..Options::default() });
    // The first node that the command line asks.
    fleet.json(&["wan", "cut", "ap-southeast"]);
    let revision = until("the majority to accept a change", Duration::from_secs(15), || async {
        let text = std::fs::read_to_string(fleet.dir().join("gateway.yaml")).expect("the fleet has a document");
        let file = fleet.dir().join("changed.yaml");
        std::fs::write(&file, format!("# changed\n{text}")).expect("written");
        apply(&fleet, &file).await.ok()
    })
    .await;
    assert_eq!(revision, 2);
    let links = fleet.json(&["wan", "show"]);
    let stopped = |link: &&serde_json::Value| link["stopped"].as_u64() > Some(0);
    assert_eq!(links["links"].as_array().expect("links").iter().filter(stopped).count(), 4, "{links:#}");
    fleet.json(&["wan", "heal", "ap-southeast"]);
    until("the cut-off region to learn of the change", Duration::from_secs(3), || async {
        fleet.status("ap-southeast").filter(|status| status["revision"] == 2)
    })
    .await;
}

fn processes(fleet: &Fleet) -> Vec<u64> {
    let text = std::fs::read_to_string(fleet.dir().join("processes.json")).expect("up wrote its processes");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    all["processes"].as_object().expect("an object").values().filter_map(serde_json::Value::as_u64).collect()
}

/// A child of a killed `up` may stay as a zombie where nobody reaps: that has ended too.
fn is_running(id: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
