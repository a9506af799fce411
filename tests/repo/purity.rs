//! What cores may not call, and what every file must say first.

use crate::{
    dependencies::is_core,
    sources::{files, shown, text, without_tests},
};

/// Text that has no place in a core, and what to use instead.
const FORBIDDEN_IN_CORES: &[(&str, &str)] = &[
    ("Instant::now", "take `now` as an argument"),
    ("SystemTime", "take `now` as an argument"),
    ("thread_rng", "take a seed or a generator"),
    ("rand::rng()", "take a seed or a generator"),
    ("rand::random", "take a seed or a generator"),
    ("std::env", "take the value as an argument"),
    ("std::fs", "take the text as an argument"),
    ("std::net::TcpStream", "hand out a message instead"),
    ("std::net::UdpSocket", "hand out a message instead"),
    ("std::thread", "cores have one owner and no threads"),
    ("tokio::", "cores are synchronous"),
    ("async fn", "cores are synchronous"),
    ("HashMap", "iteration order differs between runs: use BTreeMap"),
    ("HashSet", "iteration order differs between runs: use BTreeSet"),
    ("println!", "hand out an event instead"),
];

/// The map by key has a hasher without a seed, so its order is the same in every run.
const ALLOWED_IN_CORES: &[(&str, &str)] = &[("crates/portolan-limits/src/keyed.rs", "HashMap")];

/// The simulator is no core, yet has no clock and no unseeded chance either.
const FORBIDDEN_IN_THE_SIMULATOR: &[&str] =
    &["std::time::Instant", "SystemTime", "thread_rng", "rand::random", "HashMap", "HashSet", "spawn_blocking"];

#[test]
fn cores_have_no_clock_no_chance_and_no_outside() {
    let mut broken = Vec::new();
    for path in files("crates", ".rs") {
        let shown = shown(&path);
        let name = shown.split('/').nth(1).unwrap_or_default();
        if !is_core(name) || !shown.contains("/src/") {
            continue;
        }
        let allowed = |word: &str| ALLOWED_IN_CORES.contains(&(shown.as_str(), word));
        for (word, remedy) in FORBIDDEN_IN_CORES.iter().filter(|(word, _)| !allowed(word)) {
            for line in code_lines(&text(&path), word) {
                broken.push(format!("{shown}:{line}: `{word}`: {remedy}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_simulator_has_no_clock_and_no_unseeded_chance() {
    let mut broken = Vec::new();
    for path in files("crates/portolan-sim/src", ".rs") {
        for word in FORBIDDEN_IN_THE_SIMULATOR {
            for line in code_lines(&text(&path), word) {
                broken.push(format!("{}:{line}: `{word}`", shown(&path)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_select_in_what_the_simulator_runs_is_biased() {
    let mut broken = Vec::new();
    for path in [files("crates/portolan-sim/src", ".rs"), files("crates/portolan-raft/src", ".rs")].concat() {
        let text = text(&path);
        for (at, _) in text.match_indices("select! {") {
            if !text[at..].trim_start_matches("select! {").trim_start().starts_with("biased;") {
                broken.push(format!("{}: a `select!` without `biased;`", shown(&path)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent: Vec<_> = [files("crates", ".rs"), files("tests", ".rs")]
        .concat()
        .iter()
        .filter(|path| !text(path).starts_with("//!"))
        .map(|path| shown(path))
        .collect();
    assert!(silent.is_empty(), "no module doc: {silent:#?}");
}

/// Numbers of the lines that hold `word` outside comments and test modules.
fn code_lines(text: &str, word: &str) -> Vec<usize> {
    without_tests(text)
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//") && line.contains(word))
        .map(|(index, _)| index + 1)
        .collect()
}
