//! What the binary says without a fleet: faults, exit codes, errors that tell what to do.

use std::process::{Command, Output};

use portolan_tests::{binary, root};

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).current_dir(root()).output().expect("the binary starts")
}

fn check(arguments: &[&str], code: i32, on_error: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for words in on_error {
        assert!(said.contains(words), "{arguments:?} does not say `{words}`: {said}");
    }
}

#[test]
fn exit_codes_and_messages_tell_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let (dir, scenario) = (folder.path().join("none"), folder.path().join("bad.yaml"));
    std::fs::write(&scenario, "version: 1\ntitle: x\nlenght: 1s\nsteps: []\nexpect: {}\n").expect("written");
    let (dir, scenario) = (dir.display().to_string(), scenario.display().to_string());
    check(&["--dir", &dir, "status"], 1, &["portolan up", "--admin"]);
    check(&["--dir", &dir, "token", "--user", "alice"], 1, &["portolan up"]);
    check(&["--dir", &dir, "wan", "show"], 1, &["up --wan"]);
    check(&["frobnicate"], 2, &["Usage"]);
    check(&["simulate", &scenario], 3, &["lenght"]);
    check(&["simulate"], 3, &["nothing to rehearse", "--config"]);
    check(&["simulate", "built-in/none", "--config", "gateway.yaml"], 3, &["built-in/cut-off"]);
    check(&["simulate", "--config", "gateway.yaml", "--seeds", "0"], 2, &["--seeds"]);
    check(&["simulate", "diff", "--config", "gateway.yaml"], 3, &["two documents"]);
    check(&["schema", "--output", "junit"], 2, &["only `simulate`"]);
    let what_to_name = ["a file for each region", "--regions", "gateway document (--config)", "root of the repository"];
    check(&["up", "--regions", "/nonexistent"], 1, &what_to_name);
    check(&["up", "--network", "10.0.0.0/16"], 2, &["127.X.0.0/16"]);
    check(&["probe", "https://localhost/"], 2, &["--http3"]);
    check(&["schema"], 0, &["\"routes\""]);
}

#[test]
fn check_prints_all_faults_at_once_with_their_places() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.yaml");
    let text = "version: 1\nservices:\n  a: { endpoints: { eu-west: [http://127.0.0.1:1] } }\n\
        limits:\n  l: { key: user, rate: 600 }\nroutes:\n  r: { match: { host: a.test, paht: / }, service: b }\n";
    std::fs::write(&file, text).expect("written");
    let file = file.display().to_string();
    check(&["check", &file], 1, &[":5:", ":7:", "did you mean `path`", "names no service", "3 faults"]);
    let output = run(&["check", &file, "--output", "json"]);
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(answer["faults"].as_array().expect("faults").len() >= 3, "{answer:#}");
    check(&["check", "deploy/fleet/gateway.yaml", "--regions", "deploy/fleet/regions"], 0, &["good gateway document"]);
    check(&["check", "deploy/fleet/nodes/eu-west-1.yaml", "regions"], 0, &["good node file", "good region files"]);
}
