//! Every command that `up` prints works as printed.

use std::{
    process::{Command, Output},
    time::Duration,
};

use portolan_tests::{Fleet, Options, root};

/// `up` promises this after the build.
const READY_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn up_prints_commands_that_work() {
    let mut fleet = Fleet::start(Options::default());
    let printed = fleet.printed();
    let seconds = printed.rsplit_once("ready after ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds <= READY_WITHIN.as_secs_f64()), "{printed}");
    let commands = suggested(&printed);
    assert!((5..=10).contains(&commands.len()), "{printed}");
    let mut seen = Vec::new();
    for (title, command) in &commands {
        let output = shell(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "# {title}\n{command}\n{}{text}", String::from_utf8_lossy(&output.stderr));
        seen.push((topic(command), text));
    }
    check(&seen, "curl 200", |text| text.starts_with("HTTP/2 200") && text.contains("\"region\":\"us-east\""));
    check(&seen, "probe", |text| text.starts_with("HTTP/3 200") && text.contains("\"region\":\"us-east\""));
    check(&seen, "curl 401", |text| text.starts_with("HTTP/2 401") && text.contains("www-authenticate"));
    check(&seen, "curl token", |text| text.starts_with("HTTP/2 200") && text.contains("\"x-user-id\":\"alice\""));
    check(&seen, "loop", |text| {
        let codes: Vec<&str> = text.lines().collect();
        let count = |code: &str| codes.iter().filter(|found| **found == code).count();
        // One of the six may be on its way from region to region. A minute may turn in the middle of the loop: then the
        // second one has its own six.
        codes.len() == 9 && count("200") >= 5 && count("200") + count("429") == 9
    });
    check(&seen, "dig", |text| text.contains(&fleet.https("eu-west").ip().to_string()) && text.contains("NOERROR"));
    check(&seen, "apply", |text| text.contains("revision 1"));
    // The loop has just spent what the user has in this minute, in whichever region it was.
    check(&seen, "explain", |text| {
        text.contains("user alice") && (text.contains("forward") || text.contains("refuse with 429"))
    });
    check(&seen, "drain", |text| text.contains("ap-southeast is draining"));
    check(&seen, "simulate", |text| text.starts_with("PASS"));
    resumes_and_starts_over(&mut fleet);
}

/// A second `up` finds the drain and the revision of the first; one with `--clean` finds neither.
fn resumes_and_starts_over(fleet: &mut Fleet) {
    let authority = std::fs::read(fleet.dir().join("ca.pem")).expect("an authority");
    refuses_what_is_taken(fleet);
    fleet.end();
    let took = fleet.up();
    assert!(took < READY_WITHIN, "a second start took {took:?}");
    assert_eq!(std::fs::read(fleet.dir().join("ca.pem")).expect("an authority"), authority);
    let status = fleet.status("eu-west").expect("the node answers");
    assert_eq!((&status["revision"], &status["regions"]["ap-southeast"]["state"]), (&1.into(), &"draining".into()));
    fleet.end();
    fleet.up_with(&["--clean"]);
    let status = fleet.status("eu-west").expect("the node answers");
    assert_eq!(status["regions"]["ap-southeast"]["state"], "serving");
    assert_ne!(std::fs::read(fleet.dir().join("ca.pem")).expect("an authority"), authority);
}

/// Neither the folder nor the ports of a running fleet are taken from it, whatever the arguments.
fn refuses_what_is_taken(fleet: &Fleet) {
    let check = |arguments: &[&str], expected: &str| {
        let output = fleet.run(&[&["up"], arguments].concat());
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(expected), "{arguments:?}: {complaint}");
    };
    let (network, other) = (fleet.network.name(), fleet.scratch().join("other").display().to_string());
    check(&["--network", &network], "a fleet runs in");
    check(&["--network", "127.254.0.0/16", "--clean"], "a fleet runs in");
    check(&["--network", &network, "--dir", &other], ":8443");
    assert!(fleet.status("eu-west").is_some_and(|status| status["ready"] == true), "the fleet is unharmed");
    assert!(!std::path::Path::new(&other).exists(), "a refused start leaves nothing");
}

fn check(seen: &[(&str, String)], topic: &str, holds: impl Fn(&str) -> bool) {
    let (_, text) = seen.iter().find(|(found, _)| *found == topic).unwrap_or_else(|| panic!("no command for {topic}"));
    assert!(holds(text), "{topic}:\n{text}");
}

/// Title and command of each suggestion.
fn suggested(printed: &str) -> Vec<(&str, &str)> {
    let lines: Vec<&str> = printed.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0].starts_with("# ") && !pair[1].is_empty())
        .map(|pair| (&pair[0][2..], pair[1]))
        .collect()
}

/// What a command is about.
fn topic(command: &str) -> &'static str {
    let words = ["probe", "explain", "apply", "drain", "simulate"];
    let has = |word: &str| command.contains(&format!(" {word} "));
    match command {
        _ if command.contains("for i in") => "loop",
        _ if command.starts_with("dig ") => "dig",
        _ if command.starts_with("curl ") && command.contains("Bearer") => "curl token",
        _ if command.starts_with("curl ") && command.contains("/orders/") => "curl 401",
        _ if command.starts_with("curl ") => "curl 200",
        _ => words.into_iter().find(|word| has(word)).unwrap_or("unknown"),
    }
}

fn shell(command: &str) -> Output {
    Command::new("sh").args(["-c", command]).current_dir(root()).output().expect("a shell")
}
