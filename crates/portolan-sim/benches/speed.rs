//! How long the simulator takes for the two fleets that its speed is stated for. Prints seconds, and what they bought.
//!
//! `cargo bench -p portolan-sim --bench speed [-- [below] [pressed] [single] [large] [60s]]`: a length stands in for that
//! of every fleet chosen.

use std::{fmt::Write, sync::Arc, time::Instant};

use portolan_config::{RegionMap, RegionSource, Scenario, SourceFile};
use portolan_sim::{Sources, run};

/// An empty key set is refused, so one public key of the right form.
const JWKS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k","alg":"EdDSA",
    "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (lengths, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|argument| argument.starts_with(|first: char| first.is_ascii_digit()));
    let length = lengths.first().map(|length| length.as_str());
    let chosen = |name: &str| names.is_empty() || names.iter().any(|argument| *argument == name);
    let five = length.unwrap_or("5min");
    let small_fleet = "10 limits, 1000 keys, 10000 requests/s";
    if chosen("below") {
        measure(
            &format!("3 regions x 3 nodes, {small_fleet}, no key under pressure, {five}"),
            &small(3, 3, "100/s", five),
        );
    }
    if chosen("pressed") {
        measure(&format!("3 regions x 3 nodes, {small_fleet}, all under pressure, {five}"), &small(3, 3, "7/s", five));
    }
    if chosen("single") {
        measure(&format!("3 regions x 1 node, {small_fleet}, all under pressure, {five}"), &small(3, 1, "7/s", five));
    }
    if chosen("large") {
        let length = length.unwrap_or("30min");
        measure(&format!("20 regions x 5 nodes, 1000 keys under pressure, {length}"), &large(20, 5, length));
    }
}

fn measure(what: &str, text: &str) {
    let file = SourceFile { path: "speed.yaml".to_owned(), text: text.to_owned() };
    let scenario = Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()));
    let RegionSource::Inline(map) = &scenario.regions else { panic!("the regions stand in the scenario") };
    let map: Arc<RegionMap> = Arc::clone(map);
    let sources = Sources::gather(&scenario, map, &mut |_| Ok(JWKS.to_owned()));
    let sources = sources.unwrap_or_else(|error| panic!("{error}"));
    let begin = Instant::now();
    let outcome = run(&scenario, &sources, 1);
    let seconds = begin.elapsed().as_secs_f64();
    let figures = &outcome.figures;
    println!("{what}: {seconds:.2} s");
    println!(
        "  {:?}, {} requests, {} forwarded, {} packets, trace {}",
        outcome.verdict,
        figures.requests.sent,
        figures.requests.forwarded,
        figures.packets.delivered,
        outcome.trace_hash
    );
    outcome.violations.iter().take(3).for_each(|violation| println!("  {}", violation.detail));
}

/// Ten limits of a hundred users each, of whom each asks ten times a second.
fn small(regions: usize, nodes: usize, quota: &str, length: &str) -> String {
    let mut limits = String::new();
    let mut routes = String::new();
    let mut clients = String::new();
    for limit in 0..10 {
        let _ = writeln!(limits, "    l{limit}: {{ key: user, rate: {quota} }}");
        let _ = writeln!(
            routes,
            "    r{limit}: {{ match: {{ path: /{limit}/** }}, auth: a, limits: [l{limit}], service: s }}"
        );
        for region in 0..regions {
            let rate = 1000 / regions;
            let _ = writeln!(
                clients,
                "  - {{ region: r{region:02}, rate: {rate}/s, host: h, path: /{limit}/x, user: u, users: 100, distribution: uniform }}"
            );
        }
    }
    scenario(regions, nodes, length, &limits, &routes, &clients)
}

/// A limit of a thousand users that all regions draw from.
fn large(regions: usize, nodes: usize, length: &str) -> String {
    let mut clients = String::new();
    for region in 0..regions {
        let _ = writeln!(
            clients,
            "  - {{ region: r{region:02}, rate: 600/s, host: h, path: /x, user: u, users: 1000, distribution: uniform }}"
        );
    }
    let limits = "    l: { key: user, rate: 100/10s }\n";
    let routes = "    r: { match: { path: /x }, auth: a, limits: [l], service: s }\n";
    scenario(regions, nodes, length, limits, routes, &clients)
}

fn scenario(regions: usize, nodes: usize, length: &str, limits: &str, routes: &str, clients: &str) -> String {
    let names: Vec<String> = (0..regions).map(|region| format!("r{region:02}: {{}}")).collect();
    let names = names.join(", ");
    format!(
        "version: 1
title: Speed
regions: {{ {names} }}
rtt: 80ms
nodes: {nodes}
length: {length}
jitter: 5ms
gateway: |
  version: 1
  services:
    s: {{ endpoints: {{ r00: [http://127.0.0.1:1] }}, health: {{ interval: 30s }} }}
  auth:
    a: {{ jwt: {{ issuer: i, jwks_file: jwks.json, audience: [a] }} }}
  limits:
{limits}  routes:
{routes}clients:
{clients}"
    )
}
