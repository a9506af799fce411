//! Equal runs from equal seeds: in one process, in two, and through the encoding that real nodes use.

use std::process::Command;

use portolan_config::SourceFile;

use crate::loaded::Loaded;

/// Set for the process that only prints what it ran to.
const PRINT: &str = "PORTOLAN_SIM_PRINT";

fn busy() -> Loaded {
    let text = "version: 1
title: A little of everything
config: gateways/fleet.yml
length: 15s
nodes: 2
loss: 2%
jitter: 5ms
within: { loss: 2%, reorder: 5%, duplicate: 2% }
limit_keys: 8
clients:
  - { region: us-east, rate: 60/s, host: api.example.test, path: /strict/1, arrivals: poisson }
  - { region: eu-west, rate: 40/s, host: api.example.test, path: /users/1, user: u, users: 20, distribution: zipf 1.0 }
steps:
  - { at: 2s, fault: partition, regions: [eu-west], for: 3s }
  - { at: 4s, fault: crash, target: leader, disk: torn, for: 2s }
  - { at: 7s, fault: duplicate, share: 20%, for: 3s }
  - { at: 8s, fault: pause, region: us-east, for: 1s }
  - { at: 9s, fault: clock-step, region: us-east, by: -2s, for: 2s }
";
    Loaded::of(SourceFile { path: "simulations/test.yaml".to_owned(), text: text.to_owned() })
}

#[test]
fn two_processes_run_the_same() {
    let hash = busy().run(7).trace_hash;
    if std::env::var_os(PRINT).is_some() {
        println!("hash {hash}");
        return;
    }
    let program = std::env::current_exe().expect("the test knows its own file");
    let other = Command::new(program)
        .args(["--exact", "same::two_processes_run_the_same", "--nocapture"])
        .env(PRINT, "1")
        .output()
        .expect("the test starts once more");
    let printed = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(printed.contains(&format!("hash {hash}")), "{hash} here, there:\n{printed}");
}

#[test]
fn what_nodes_say_reads_back_as_it_was_written_and_the_run_is_the_same() {
    assert_eq!(busy().run(7).trace_hash, busy().run_encoded(7).trace_hash);
}

#[test]
fn a_replay_tells_packets_verdicts_and_events_in_fixed_columns() {
    let lines = busy().replay(7);
    assert_eq!(lines, busy().replay(7));
    assert!(lines[0].trim_start().starts_with("seconds  kind"), "{}", lines[0]);
    let kinds = ["packet", "lost", "cut", "requests", "event"];
    for kind in kinds {
        assert!(lines.iter().any(|line| line.get(14..).is_some_and(|rest| rest.starts_with(kind))), "no {kind}");
    }
}
