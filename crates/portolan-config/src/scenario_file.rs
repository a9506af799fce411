//! Reads scenario files. Checks what a file alone can show; names of regions are checked once the region map is read.

use std::{str::FromStr, time::Duration};

use portolan_model::{Ratio, RegionId};

use crate::{
    Action, AdmittedBound, Bound, ClientLoad, Comparison, CrashTarget, Direction, Disk, Expect, GatewaySource,
    OperatorVerb, Scenario, SourceFile, Step,
    decode::{self, Fields, Shape, choice, duration, items, list, name, region_id, string, text, whole},
    fault::{Report, Span},
    suggest, syntax,
    tree::{Node, Value},
};

/// A scenario's keys.
pub(crate) const SCENARIO: Shape = Shape {
    what: "a scenario",
    keys: &[
        "version", "title", "config", "gateway", "regions", "length", "loss", "jitter", "clients", "steps", "expect",
    ],
};

/// The keys of one load.
pub(crate) const CLIENT: Shape =
    Shape { what: "a load", keys: &["region", "rate", "host", "path", "method", "user", "users"] };

/// A step's keys.
pub(crate) const STEP: Shape =
    Shape { what: "a step", keys: &["at", "do", "fault", "regions", "region", "target", "direction", "disk", "for"] };

/// The keys of what must hold.
pub(crate) const EXPECT: Shape =
    Shape { what: "a set of expectations", keys: &["availability", "leader_changes", "admitted", "converged_within"] };

/// The keys of a bound on admitted requests.
pub(crate) const ADMITTED: Shape = Shape { what: "a bound on admitted requests", keys: &["limit", "per_slot"] };

/// Sides of a partition.
pub(crate) const DIRECTIONS: [(&str, Direction); 3] =
    [("both", Direction::Both), ("in", Direction::In), ("out", Direction::Out)];

/// States of a disk after a crash.
pub(crate) const DISKS: [(&str, Disk); 2] = [("kept", Disk::Kept), ("lost", Disk::Lost)];

/// Kinds of faults.
pub(crate) const FAULTS: [(&str, Kind); 2] = [("partition", Kind::Partition), ("crash", Kind::Crash)];

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Partition,
    Crash,
}

/// Regions that a scenario names, with the places where it does.
pub(crate) type Mentions = Vec<(RegionId, Span)>;

pub(crate) fn decode(root: &Node, report: &mut Report<'_>) -> Option<Scenario> {
    let fields = Fields::open(root, &SCENARIO, report)?;
    fields.check_version(report);
    let mut mentions = Mentions::new();
    let title = fields.require("title", "One region is cut off", report).and_then(|node| string(node, report));
    let config = gateway_source(&fields, report);
    let regions = fields.get("regions").and_then(|node| string(node, report));
    let length = fields
        .require("length", "60s", report)
        .and_then(|node| duration(node, Duration::from_millis(1)..=MAX_LENGTH, report));
    let loss = fields.optional("loss", Ratio::default(), report, decode::ratio);
    let jitter = fields.optional("jitter", Duration::ZERO, report, |node, report| {
        duration(node, Duration::ZERO..=Duration::from_secs(10), report)
    });
    let clients = fields.optional("clients", Vec::new(), report, |node, report| {
        list(node, MAX_CLIENTS, report, |node, report| client(node, &mut mentions, report))
    });
    let steps = fields.optional("steps", Vec::new(), report, |node, report| {
        let mut steps = list(node, MAX_STEPS, report, |node, report| step(node, length, &mut mentions, report))?;
        steps.sort_by_key(|step| step.at);
        Some(steps)
    });
    let expect = fields.optional("expect", Expect::default(), report, expect);
    Some(Scenario {
        title: title?,
        config: config?,
        regions,
        length: length?,
        loss,
        jitter,
        clients,
        steps,
        expect,
        mentions,
        file: report.file().clone(),
    })
}

fn gateway_source(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<GatewaySource> {
    match (fields.get("config"), fields.get("gateway")) {
        (Some(_), Some(inline)) => {
            let remedy = "keep one of them".to_owned();
            report.fault(inline.named_at, "a scenario has either `config` or `gateway`", remedy);
            None
        }
        (None, None) => {
            let node = fields.require("config", "../gateway.yaml", report)?;
            string(node, report).map(GatewaySource::File)
        }
        (Some(file), None) => string(file, report).map(GatewaySource::File),
        (None, Some(inline)) => inline_document(inline, report).map(GatewaySource::Inline),
    }
}

/// Cuts the lines of an inline document out of the scenario, indentation and line numbers kept, so that faults in it
/// name lines of the scenario.
fn inline_document(node: &Node, report: &mut Report<'_>) -> Option<SourceFile> {
    text(node, report)?;
    let SourceFile { path, text } = report.file();
    let mut lines = text.lines().skip(node.named_at.line - 1);
    let key_line = lines.next().unwrap_or_default();
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let (header, first) = (indent(key_line), lines.clone().find(|line| !line.trim().is_empty()));
    let starts = key_line.split('#').next().unwrap_or_default().trim_end().ends_with('|');
    if !starts || first.is_none_or(|line| indent(line) <= header) {
        let remedy = "write `gateway: |` and the document below it, indented".to_owned();
        report.fault(node.at, "`gateway` is not a document", remedy);
        return None;
    }
    let mut document = "\n".repeat(node.named_at.line);
    for line in lines.take_while(|line| line.trim().is_empty() || indent(line) > header) {
        document += line;
        document.push('\n');
    }
    Some(SourceFile { path: path.clone(), text: document })
}

fn mention(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<RegionId> {
    let id = region_id(node, report)?;
    mentions.push((id.clone(), node.at));
    Some(id)
}

fn client(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<ClientLoad> {
    let fields = Fields::open(node, &CLIENT, report)?;
    let region = fields.require("region", "us-east", report).and_then(|node| mention(node, mentions, report));
    let rate = fields.require("rate", "200/s", report).and_then(|node| decode::rate(node, report));
    let host = fields.require("host", "api.example.test", report).and_then(|node| string(node, report));
    let path = fields.require("path", "/orders/1", report).and_then(|node| string(node, report));
    let method = fields.optional("method", "GET".to_owned(), report, string);
    let user = fields.get("user").and_then(|node| string(node, report));
    let users = fields.optional("users", 1, report, |node, report| whole(node, 1..=MAX_USERS, report));
    if let Some(node) = fields.get("users").filter(|_| fields.get("user").is_none()) {
        let message = "`users` counts variants of `user`, which is missing";
        report.fault(node.at, message, "add for example `user: alice`".to_owned());
    }
    let users = u32::try_from(users).ok()?;
    Some(ClientLoad { region: region?, rate: rate?, host: host?, path: path?, method, user, users })
}

fn step(node: &Node, length: Option<Duration>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Step> {
    let fields = Fields::open(node, &STEP, report)?;
    let at = fields.require("at", "10s", report).and_then(|node| {
        let at = duration(node, Duration::ZERO..=MAX_LENGTH, report)?;
        if length.is_some_and(|length| at >= length) {
            let message = format!("{} is after the end of the scenario", node.quoted());
            report.fault(node.at, message, "start it earlier, or raise `length`".to_owned());
        }
        Some(at)
    });
    let lasting = fields.get("for").and_then(|node| duration(node, Duration::from_millis(1)..=MAX_LENGTH, report));
    let action = match (fields.get("fault"), fields.get("do")) {
        (None, Some(verb)) => {
            refuse_keys(
                &fields,
                "an operator step",
                &["regions", "region", "target", "direction", "disk", "for"],
                report,
            );
            operator_verb(verb, mentions, report)
        }
        (Some(kind), None) => match choice(kind, &FAULTS, report)? {
            Kind::Partition => partition(&fields, mentions, report),
            Kind::Crash => crash(node, &fields, mentions, report),
        },
        _ => {
            let message = format!("{} has neither or both of `fault` and `do`", node.quoted());
            report.fault(node.at, message, "write `fault: partition`, `fault: crash` or `do: drain REGION`".to_owned());
            None
        }
    };
    Some(Step { at: at?, action: action?, duration: lasting })
}

fn refuse_keys(fields: &Fields<'_>, what: &str, keys: &[&str], report: &mut Report<'_>) {
    for node in keys.iter().filter_map(|key| fields.get(key)) {
        let message = format!("{} does not belong to {what}", node.quoted());
        report.fault(node.named_at, message, "remove it".to_owned());
    }
}

fn operator_verb(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Action> {
    match OperatorVerb::parse(text(node, report)?) {
        Ok(verb) => {
            if let OperatorVerb::Drain { region, .. } | OperatorVerb::Restore { region } = &verb {
                mentions.push((region.clone(), node.at));
            }
            Some(Action::Operator(verb))
        }
        Err(error) => {
            let remedy = "write as on the command line, e.g. drain eu-west --reason test".to_owned();
            report.fault(node.at, error.to_string(), remedy);
            None
        }
    }
}

fn partition(fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Action> {
    refuse_keys(fields, "a partition", &["region", "target", "disk"], report);
    let regions = fields.require("regions", "[eu-west]", report).and_then(|node| {
        if decode::is_empty_list(node) {
            report.fault(node.at, "`regions` is empty", "name the regions that are cut off".to_owned());
        }
        list(node, MAX_REGIONS, report, |node, report| mention(node, mentions, report))
    });
    let direction = fields.optional("direction", Direction::Both, report, |n, r| choice(n, &DIRECTIONS, r));
    Some(Action::Partition { regions: regions?, direction })
}

fn crash(node: &Node, fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Action> {
    refuse_keys(fields, "a crash", &["regions", "direction"], report);
    let target = match (fields.get("region"), fields.get("target")) {
        (Some(region), None) => mention(region, mentions, report).map(CrashTarget::Region),
        (None, Some(target)) => {
            choice(target, &[("leader", CrashLeader)], report).map(|CrashLeader| CrashTarget::Leader)
        }
        _ => {
            let message = "a crash has either `region` or `target`";
            report.fault(node.at, message, "write `region: us-east` or `target: leader`".to_owned());
            None
        }
    };
    let disk = fields.optional("disk", Disk::Kept, report, |n, r| choice(n, &DISKS, r));
    Some(Action::Crash { target: target?, disk })
}

/// The one word that `target` takes.
#[derive(Clone, Copy)]
struct CrashLeader;

fn expect(node: &Node, report: &mut Report<'_>) -> Option<Expect> {
    let fields = Fields::open(node, &EXPECT, report)?;
    let availability = fields.get("availability").and_then(|node| bound(node, "\">= 99.9%\"", report));
    let leader_changes = fields.get("leader_changes").and_then(|node| bound(node, "\"<= 2\"", report));
    let admitted = match fields.get("admitted") {
        None => Vec::new(),
        Some(node) if matches!(node.value, Value::Mapping(_)) => admitted(node, report).into_iter().collect(),
        Some(node) => items(node, MAX_BOUNDS, report)?.iter().filter_map(|item| admitted(item, report)).collect(),
    };
    let converged_within =
        fields.get("converged_within").and_then(|node| duration(node, Duration::ZERO..=MAX_LENGTH, report));
    Some(Expect { availability, leader_changes, admitted, converged_within })
}

fn admitted(node: &Node, report: &mut Report<'_>) -> Option<AdmittedBound> {
    let fields = Fields::open(node, &ADMITTED, report)?;
    let limit = fields.require("limit", "orders-total", report).and_then(|node| name(node, report));
    let example = "\"<= 5000\"";
    let per_slot = fields.require("per_slot", example, report).and_then(|node| bound(node, example, report));
    Some(AdmittedBound { limit: limit?, per_slot: per_slot? })
}

fn bound<T: FromStr>(node: &Node, example: &str, report: &mut Report<'_>) -> Option<Bound<T>> {
    let word = text(node, report)?;
    let sides = [(">=", Comparison::AtLeast), ("<=", Comparison::AtMost)];
    let read = sides.iter().find_map(|(sign, comparison)| {
        let value = word.trim().strip_prefix(sign)?.trim().parse().ok()?;
        Some(Bound { comparison: *comparison, value })
    });
    if read.is_none() {
        report.fault(node.at, format!("{} is not a bound", node.quoted()), format!("write for example {example}"));
    }
    read
}

/// Notes each mention of a region that is not known.
pub(crate) fn check_mentions<'k>(
    mentions: &[(RegionId, Span)],
    known: impl Iterator<Item = &'k RegionId> + Clone,
    report: &mut Report<'_>,
) {
    for (region, at) in mentions {
        if !known.clone().any(|id| id == region) {
            let remedy = suggest::remedy(region.as_str(), known.clone().map(RegionId::as_str));
            report.fault(*at, format!("`{region}` names no region"), remedy);
        }
    }
}

/// Reads a scenario file into a tree and that into a scenario.
pub(crate) fn parse(report: &mut Report<'_>) -> Option<Scenario> {
    syntax::parse(report).and_then(|root| decode(&root, report))
}

/// A day of virtual time.
const MAX_LENGTH: Duration = Duration::from_secs(86_400);

/// Loads of one scenario.
const MAX_CLIENTS: usize = 1000;

/// Users of one load.
const MAX_USERS: u64 = 1_000_000;

/// Steps of one scenario.
const MAX_STEPS: usize = 1000;

/// Regions cut off by one partition.
const MAX_REGIONS: usize = 100;

/// Bounds on admitted requests.
const MAX_BOUNDS: usize = 100;
