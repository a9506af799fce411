//! Writes a scenario as a file that reads back to it. The order of keys is that of the guide.

use std::{fmt::Write, time::Duration};

use portolan_model::{ByteSize, NodeName, Ratio, RegionId, render_duration};

use super::{
    Action, Arrivals, ClientLoad, Cut, Direction, Disk, DiskState, Distribution, Expect, GatewaySource, LenderState,
    LimitExpectation, LinkEffect, Order, RegionSource, Scenario, ScenarioFault, Start, Step, Target, Within,
};
use crate::{RegionMap, scenario_file::REDIS_RTT};

pub(super) fn render(scenario: &Scenario) -> String {
    let mut text = format!("version: 1\ntitle: {}\n", quoted(&scenario.title));
    match &scenario.config {
        None => {}
        Some(GatewaySource::File(path)) => line(&mut text, "config", &quoted(path)),
        Some(GatewaySource::Inline(document)) => {
            text += "gateway: |\n";
            let lines = document.text.lines().skip_while(|line| line.trim().is_empty());
            let lines: Vec<&str> = lines.collect();
            // Its indentation is that of the file it stood in, which may be none.
            let indent = if lines.first().is_some_and(|line| line.starts_with(' ')) { "" } else { "  " };
            lines.iter().for_each(|line| _ = writeln!(text, "{indent}{line}"));
        }
    }
    places(&mut text, scenario);
    line(&mut text, "length", &render_duration(scenario.length));
    if scenario.seed != 1 {
        line(&mut text, "seed", &scenario.seed.to_string());
    }
    if scenario.seeds != 1 {
        line(&mut text, "seeds", &scenario.seeds.to_string());
    }
    if scenario.loss != Ratio::default() {
        line(&mut text, "loss", &scenario.loss.to_string());
    }
    if !scenario.jitter.is_zero() {
        line(&mut text, "jitter", &render_duration(scenario.jitter));
    }
    within(&mut text, &scenario.within);
    if let Some(keys) = scenario.limit_keys {
        line(&mut text, "limit_keys", &keys.to_string());
    }
    redis_rtt(&mut text, scenario);
    list(&mut text, "clients", scenario.clients.iter().map(client));
    list(&mut text, "steps", scenario.steps.iter().map(step));
    expect(&mut text, &scenario.expect);
    text
}

fn places(text: &mut String, scenario: &Scenario) {
    match &scenario.regions {
        RegionSource::Unstated => {}
        RegionSource::Directory(path) => line(text, "regions", &quoted(path)),
        RegionSource::Inline(map) => {
            *text += "regions:\n";
            for id in map.ids() {
                let nodes = scenario.nodes_of.get(id).map(|nodes| format!("nodes: {nodes}")).unwrap_or_default();
                let _ = writeln!(text, "  {id}: {{ {nodes} }}");
            }
            if map.ids().len() > 1 {
                round_trips(text, map);
            }
        }
    }
    if scenario.nodes != 1 {
        line(text, "nodes", &scenario.nodes.to_string());
    }
}

fn round_trips(text: &mut String, map: &RegionMap) {
    let ids = map.ids();
    let pairs = ids.iter().enumerate().flat_map(|(at, a)| ids[at + 1..].iter().map(move |b| (a, b)));
    let trip = |(a, b): (&RegionId, &RegionId)| format!("between: [{a}, {b}], rtt: {}", render_duration(map.rtt(a, b)));
    list(text, "rtt", pairs.map(trip));
}

fn within(text: &mut String, within: &Within) {
    let shares = [("loss", within.loss), ("reorder", within.reorder), ("duplicate", within.duplicate)];
    let stated = shares.iter().filter(|(_, share)| *share != Ratio::default());
    let shares: Vec<String> = stated.map(|(key, share)| format!("{key}: {share}")).collect();
    if !shares.is_empty() {
        line(text, "within", &format!("{{ {} }}", shares.join(", ")));
    }
}

fn redis_rtt(text: &mut String, scenario: &Scenario) {
    let trip = |(id, rtt): (&RegionId, &Duration)| format!("{id}: {}", render_duration(*rtt));
    let trips: Vec<String> = scenario.redis_rtt_of.iter().map(trip).collect();
    if !trips.is_empty() {
        line(text, "redis_rtt", &format!("{{ {} }}", trips.join(", ")));
    } else if scenario.redis_rtt != REDIS_RTT {
        line(text, "redis_rtt", &render_duration(scenario.redis_rtt));
    }
}

fn client(load: &ClientLoad) -> String {
    let mut keys = vec![
        format!("region: {}", load.region),
        format!("rate: {}", load.rate),
        format!("host: {}", quoted(&load.host)),
        format!("path: {}", quoted(&load.path)),
    ];
    if load.method != "GET" {
        keys.push(format!("method: {}", quoted(&load.method)));
    }
    keys.extend(load.user.as_ref().map(|user| format!("user: {}", quoted(user))));
    if load.users != 1 {
        keys.push(format!("users: {}", load.users));
    }
    match load.distribution {
        Distribution::InTurn => {}
        Distribution::Uniform => keys.push("distribution: uniform".to_owned()),
        Distribution::Zipf(exponent) => keys.push(format!("distribution: zipf {}", f64::from(exponent) / 1000.0)),
    }
    if load.sticky {
        keys.push("sticky: true".to_owned());
    }
    for (key, fields) in [("headers", &load.headers), ("claims", &load.claims)] {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}: {}", quoted(value))).collect();
        if !fields.is_empty() {
            keys.push(format!("{key}: {{ {} }}", fields.join(", ")));
        }
    }
    if load.arrivals == Arrivals::Poisson {
        keys.push("arrivals: poisson".to_owned());
    }
    if !load.from.is_zero() {
        keys.push(format!("from: {}", render_duration(load.from)));
    }
    keys.extend(load.until.map(|until| format!("until: {}", render_duration(until))));
    if let Some(bursts) = load.bursts {
        keys.push(format!("every: {}, for: {}", render_duration(bursts.every), render_duration(bursts.length)));
    }
    if !load.lasting.is_zero() {
        keys.push(format!("lasting: {}", render_duration(load.lasting)));
    }
    if load.failing.parts() > 0 {
        keys.push(format!("failing: {}", load.failing));
    }
    keys.join(", ")
}

/// One step, as it stands between braces.
fn step(step: &Step) -> String {
    let start = match &step.start {
        Start::At(at) => format!("at: {}", moment(*at)),
        Start::When { condition, not_before } if not_before.is_zero() => format!("when: {condition}"),
        Start::When { condition, not_before } => format!("at: {}, when: {condition}", moment(*not_before)),
    };
    format!("{start}, {}", action(step))
}

/// What a step does, and for how long.
pub(super) fn action(step: &Step) -> String {
    let mut keys = Vec::new();
    match &step.action {
        Action::Order(Order { verb, may_fail }) => {
            keys.push(format!("do: {}", quoted(&verb.to_string())));
            keys.extend(may_fail.then(|| "may_fail: true".to_owned()));
        }
        Action::Fault(broken) => fault(&mut keys, broken),
    }
    keys.extend(step.duration.map(|duration| format!("for: {}", render_duration(duration))));
    keys.join(", ")
}

fn fault(keys: &mut Vec<String>, fault: &ScenarioFault) {
    let mut kind = |word: &str| keys.push(format!("fault: {word}"));
    match fault {
        ScenarioFault::Partition(cut) => {
            kind("partition");
            links(keys, cut);
        }
        ScenarioFault::Link { links: cut, effect } => {
            match effect {
                LinkEffect::Latency(by) => keys.push(format!("fault: latency, by: {}", render_duration(*by))),
                LinkEffect::Loss(share) => keys.push(format!("fault: loss, share: {share}")),
                LinkEffect::Duplicate(share) => keys.push(format!("fault: duplicate, share: {share}")),
                LinkEffect::Reorder(share) => keys.push(format!("fault: reorder, share: {share}")),
                LinkEffect::Bandwidth(ByteSize(bytes)) => {
                    keys.push(format!("fault: bandwidth, bandwidth: {}", ByteSize(*bytes)));
                }
            }
            links(keys, cut);
        }
        ScenarioFault::Crash { target, disk } => {
            kind("crash");
            keys.push(of_target(target));
            match disk {
                Disk::Kept => {}
                Disk::Torn => keys.push("disk: torn".to_owned()),
                Disk::Lost => keys.push("disk: lost".to_owned()),
            }
        }
        ScenarioFault::Pause { target } => keys.push(format!("fault: pause, {}", of_target(target))),
        ScenarioFault::Slow { target, by } => {
            keys.push(format!("fault: slow, {}, by: {}", of_target(target), render_duration(*by)));
        }
        ScenarioFault::ClockStep { target, by } => {
            keys.push(format!("fault: clock-step, {}, by: {by}", of_target(target)));
        }
        ScenarioFault::ClockDrift { target, drift } => {
            keys.push(format!("fault: clock-drift, {}, drift: {drift}", of_target(target)));
        }
        ScenarioFault::Disk { target, state: DiskState::Full } => {
            keys.push(format!("fault: disk-full, {}", of_target(target)));
        }
        ScenarioFault::Disk { target, state: DiskState::Slow(by) } => {
            keys.push(format!("fault: disk-slow, {}, by: {}", of_target(target), render_duration(*by)));
        }
        ScenarioFault::QuorumLoss => kind("quorum-loss"),
        ScenarioFault::Surge { regions, factor } => {
            kind("surge");
            keys.extend((!regions.is_empty()).then(|| format!("regions: [{}]", names(regions))));
            keys.push(format!("load: {factor}"));
        }
        ScenarioFault::BadConfig => kind("bad-config"),
        ScenarioFault::Lender { state, regions } => {
            kind("redis");
            keys.extend((!regions.is_empty()).then(|| format!("regions: [{}]", names(regions))));
            keys.push(match state {
                LenderState::Down => "state: down".to_owned(),
                LenderState::Slow(by) => format!("state: slow, by: {}", render_duration(*by)),
                LenderState::Lost => "state: lost".to_owned(),
            });
        }
    }
}

fn links(keys: &mut Vec<String>, cut: &Cut) {
    let side = match cut {
        Cut::All => return,
        Cut::Nodes { nodes, regions, direction } => {
            let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
            keys.push(format!("nodes: [{}]", nodes.join(", ")));
            keys.extend((!regions.is_empty()).then(|| format!("regions: [{}]", names(regions))));
            *direction
        }
        Cut::Side { regions, direction } => {
            keys.push(format!("regions: [{}]", names(regions)));
            *direction
        }
        Cut::Pairs { pairs, direction } => {
            let pairs: Vec<String> = pairs.iter().map(|(a, b)| format!("[{a}, {b}]")).collect();
            keys.push(format!("pairs: [{}]", pairs.join(", ")));
            *direction
        }
    };
    match side {
        Direction::Both => {}
        Direction::In => keys.push("direction: in".to_owned()),
        Direction::Out => keys.push("direction: out".to_owned()),
    }
}

fn of_target(target: &Target) -> String {
    match target {
        Target::Region(region) => format!("region: {region}"),
        Target::Node(node) => format!("node: {node}"),
        Target::Leader => "target: leader".to_owned(),
        Target::Fleet => "target: fleet".to_owned(),
    }
}

fn expect(text: &mut String, expect: &Expect) {
    if *expect == Expect::default() {
        return;
    }
    *text += "expect:\n";
    let bounds = [
        ("availability", expect.availability.map(|bound| bound.to_string())),
        ("unavailable", expect.unavailable.map(|bound| bound.to_string())),
        ("leader_changes", expect.leader_changes.map(|bound| bound.to_string())),
    ];
    for (key, bound) in bounds {
        if let Some(bound) = bound {
            let _ = writeln!(text, "  {key}: \"{bound}\"");
        }
    }
    if let Some(lag) = expect.config_lag_p99 {
        let _ = writeln!(text, "  config_lag_p99: {}", render_duration(lag));
    }
    if !expect.limits.is_empty() {
        *text += "  limits:\n";
        expect.limits.iter().for_each(|expected| _ = writeln!(text, "    - {{ {} }}", limit(expected)));
    }
    if !expect.served.is_empty() {
        *text += "  served:\n";
        expect.served.iter().for_each(|served| {
            let _ = writeln!(text, "    {}: \"{}\"", served.region, served.requests);
        });
    }
    if let Some(within) = expect.converged_within {
        let _ = writeln!(text, "  converged_within: {}", moment(within));
    }
}

fn limit(expected: &LimitExpectation) -> String {
    let mut keys = vec![format!("limit: {}", expected.limit)];
    let mut bound = |key: &str, bound: Option<String>| {
        keys.extend(bound.map(|bound| format!("{key}: \"{bound}\"")));
    };
    bound("per_slot", expected.per_slot.map(|bound| bound.to_string()));
    bound("over", expected.over.map(|bound| bound.to_string()));
    bound("over_mean", expected.over_mean.map(|bound| bound.to_string()));
    bound("false_rejects", expected.false_rejects.map(|bound| bound.to_string()));
    bound("unavailable", expected.unavailable.map(|bound| bound.to_string()));
    bound("waited", expected.waited.map(|bound| bound.to_string()));
    if !expected.from.is_zero() {
        keys.push(format!("from: {}", render_duration(expected.from)));
    }
    keys.extend(expected.until.map(|until| format!("until: {}", render_duration(until))));
    keys.join(", ")
}

fn line(text: &mut String, key: &str, value: &str) {
    let _ = writeln!(text, "{key}: {value}");
}

fn list(text: &mut String, key: &str, items: impl Iterator<Item = String>) {
    let mut items = items.peekable();
    if items.peek().is_some() {
        let _ = writeln!(text, "{key}:");
    }
    items.for_each(|item| _ = writeln!(text, "  - {{ {item} }}"));
}

fn moment(at: Duration) -> String {
    if at.is_zero() { "0s".to_owned() } else { render_duration(at) }
}

fn names(regions: &[RegionId]) -> String {
    regions.iter().map(RegionId::as_str).collect::<Vec<_>>().join(", ")
}

/// In quotes where a bare word would read as something else.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./ ".contains(c);
    let bare = text.chars().all(plain)
        && text.chars().next().is_some_and(|first| first.is_ascii_alphanumeric() || "./".contains(first));
    if bare && text.trim() == text { text.to_owned() } else { format!("'{}'", text.replace('\'', "''")) }
}
