//! Reads the faults of a scenario: each kind takes keys of its own, and no others.

use std::{str::FromStr, time::Duration};

use portolan_model::{ByteSize, Ratio, RegionId};

use crate::{
    Cut, Direction, Disk, DiskState, Drift, LenderState, LinkEffect, ScenarioFault, Shift, Target,
    decode::{self, Fields, choice, duration, items, list, node_name, parsed, size, text},
    fault::Report,
    scenario_file::{Mentions, mention, step::refuse_others},
    tree::Node,
};

/// Sides of a partition.
pub(crate) const DIRECTIONS: [(&str, Direction); 3] =
    [("both", Direction::Both), ("in", Direction::In), ("out", Direction::Out)];

/// States of a disk after a crash.
pub(crate) const DISKS: [(&str, Disk); 3] = [("kept", Disk::Kept), ("torn", Disk::Torn), ("lost", Disk::Lost)];

/// States of a lender.
pub(crate) const LENDER_STATES: [(&str, LenderWord); 3] =
    [("down", LenderWord::Down), ("slow", LenderWord::Slow), ("lost", LenderWord::Lost)];

/// What a lender's state is called.
#[derive(Clone, Copy)]
pub(crate) enum LenderWord {
    Down,
    Slow,
    Lost,
}

/// Kinds of faults, as they are named.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Partition,
    Latency,
    Loss,
    Duplicate,
    Reorder,
    Bandwidth,
    Crash,
    Pause,
    Slow,
    ClockStep,
    ClockDrift,
    DiskFull,
    DiskSlow,
    QuorumLoss,
    Surge,
    BadConfig,
    Lender,
}

pub(super) fn decode(
    kind: Kind,
    node: &Node,
    fields: &Fields<'_>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<ScenarioFault> {
    let (what, keys) = keys(kind);
    let common = ["at", "when", "fault", "for", "every", "times"];
    let allowed: Vec<&str> = keys.iter().chain(&common).copied().collect();
    refuse_others(fields, what, &allowed, report);
    match kind {
        Kind::Partition => partition(node, fields, mentions, report).map(ScenarioFault::Partition),
        Kind::Latency | Kind::Loss | Kind::Duplicate | Kind::Reorder | Kind::Bandwidth => {
            let links = links(node, fields, mentions, report);
            let effect = effect(kind, fields, report);
            Some(ScenarioFault::Link { links: links?, effect: effect? })
        }
        Kind::Crash => {
            let target = target(node, what, fields, mentions, report);
            let disk = fields.optional("disk", Disk::Kept, report, |n, r| choice(n, &DISKS, r));
            Some(ScenarioFault::Crash { target: target?, disk })
        }
        Kind::QuorumLoss => Some(ScenarioFault::QuorumLoss),
        Kind::BadConfig => {
            once(fields, what, report);
            Some(ScenarioFault::BadConfig)
        }
        Kind::Surge => {
            let regions = regions(fields, mentions, report)?;
            let factor = fields.require("load", "300%", report).and_then(|node| factor(node, report));
            Some(ScenarioFault::Surge { regions, factor: factor? })
        }
        Kind::Lender => lender(fields, mentions, report),
        Kind::Pause | Kind::Slow | Kind::ClockStep | Kind::ClockDrift | Kind::DiskFull | Kind::DiskSlow => {
            let target = target(node, what, fields, mentions, report);
            of_target(kind, fields, target, report)
        }
    }
}

/// What a kind is called in a fault, and the keys it takes.
const fn keys(kind: Kind) -> (&'static str, &'static [&'static str]) {
    match kind {
        Kind::Partition => ("a partition", &["regions", "pairs", "nodes", "direction"]),
        Kind::Latency => ("latency", &["regions", "pairs", "direction", "by"]),
        Kind::Loss => ("loss", &["regions", "pairs", "direction", "share"]),
        Kind::Duplicate => ("duplication", &["regions", "pairs", "direction", "share"]),
        Kind::Reorder => ("reordering", &["regions", "pairs", "direction", "share"]),
        Kind::Bandwidth => ("a narrow link", &["regions", "pairs", "direction", "bandwidth"]),
        Kind::Crash => ("a crash", &["region", "node", "target", "disk"]),
        Kind::Pause => ("a pause", &["region", "node", "target"]),
        Kind::Slow => ("a slow node", &["region", "node", "target", "by"]),
        Kind::ClockStep => ("a step of a clock", &["region", "node", "target", "by"]),
        Kind::ClockDrift => ("a drift of a clock", &["region", "node", "target", "drift"]),
        Kind::DiskFull => ("a full disk", &["region", "node", "target"]),
        Kind::DiskSlow => ("a slow disk", &["region", "node", "target", "by"]),
        Kind::QuorumLoss => ("a loss of quorum", &[]),
        Kind::Surge => ("a surge", &["regions", "load"]),
        Kind::BadConfig => ("a bad configuration", &[]),
        Kind::Lender => ("a fault of Redis", &["regions", "state", "by"]),
    }
}

fn of_target(
    kind: Kind,
    fields: &Fields<'_>,
    target: Option<Target>,
    report: &mut Report<'_>,
) -> Option<ScenarioFault> {
    match kind {
        Kind::Slow => {
            let by = by(fields, "50ms", MAX_LATE, report);
            Some(ScenarioFault::Slow { target: target?, by: by? })
        }
        Kind::ClockStep => {
            let by = fields.require("by", "-5s", report).and_then(|node| {
                parsed::<Signed<Shift>>(node, "a shift of a clock", "write for example +5s or -200ms", report)
            });
            Some(ScenarioFault::ClockStep { target: target?, by: by?.0 })
        }
        Kind::ClockDrift => {
            let drift = fields.require("drift", "200ppm", report).and_then(|node| {
                parsed::<Signed<Drift>>(node, "a drift of at most 10%", "write for example 200ppm or -1%", report)
            });
            Some(ScenarioFault::ClockDrift { target: target?, drift: drift?.0 })
        }
        Kind::DiskFull => Some(ScenarioFault::Disk { target: target?, state: DiskState::Full }),
        Kind::DiskSlow => {
            let by = by(fields, "200ms", MAX_LATE, report);
            Some(ScenarioFault::Disk { target: target?, state: DiskState::Slow(by?) })
        }
        _ => Some(ScenarioFault::Pause { target: target? }),
    }
}

/// A state of Redis: each takes keys of its own.
fn lender(fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<ScenarioFault> {
    let regions = regions(fields, mentions, report)?;
    let word = fields.require("state", "down", report).and_then(|node| choice(node, &LENDER_STATES, report))?;
    let mut refuse = |key: &str, of: &str| {
        if let Some(node) = fields.get(key) {
            let message = format!("{} does not belong to a Redis that is {of}", node.quoted());
            report.fault(node.named_at, message, "remove it".to_owned());
        }
    };
    let state = match word {
        LenderWord::Down => {
            refuse("by", "down");
            LenderState::Down
        }
        LenderWord::Lost => {
            refuse("by", "lost");
            refuse("regions", "lost");
            LenderState::Lost
        }
        LenderWord::Slow => LenderState::Slow(by(fields, "2s", MAX_LATE, report)?),
    };
    Some(ScenarioFault::Lender { state, regions })
}

/// Gives types whose error says nothing the form that decoders read.
struct Signed<T>(T);

impl<T: FromStr<Err = ()>> FromStr for Signed<T> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self)
    }
}

fn once(fields: &Fields<'_>, what: &str, report: &mut Report<'_>) {
    if let Some(node) = fields.get("for") {
        let message = format!("{} does not belong to {what}", node.quoted());
        report.fault(node.named_at, message, "remove it".to_owned());
    }
}

fn by(fields: &Fields<'_>, example: &str, most: Duration, report: &mut Report<'_>) -> Option<Duration> {
    let node = fields.require("by", example, report)?;
    duration(node, Duration::from_micros(1)..=most, report)
}

fn effect(kind: Kind, fields: &Fields<'_>, report: &mut Report<'_>) -> Option<LinkEffect> {
    let share = |fields: &Fields<'_>, report: &mut Report<'_>| {
        fields.require("share", "20%", report).and_then(|node| decode::ratio(node, report))
    };
    match kind {
        Kind::Latency => by(fields, "50ms", MAX_LATE, report).map(LinkEffect::Latency),
        Kind::Loss => share(fields, report).map(LinkEffect::Loss),
        Kind::Duplicate => share(fields, report).map(LinkEffect::Duplicate),
        Kind::Reorder => share(fields, report).map(LinkEffect::Reorder),
        _ => {
            let node = fields.require("bandwidth", "64KiB", report)?;
            size(node, ByteSize(1024)..=ByteSize(1 << 40), report).map(LinkEffect::Bandwidth)
        }
    }
}

fn partition(node: &Node, fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Cut> {
    let Some(named) = fields.get("nodes") else {
        if fields.get("pairs").is_none() {
            fields.require("regions", "[eu-west]", report)?;
        }
        return links(node, fields, mentions, report);
    };
    if let Some(pairs) = fields.get("pairs") {
        report.fault(pairs.named_at, "a partition has either `nodes` or `pairs`", "keep one of them".to_owned());
    }
    let direction = fields.optional("direction", Direction::Both, report, |n, r| choice(n, &DIRECTIONS, r));
    let regions = regions(fields, mentions, report);
    if decode::is_empty_list(named) {
        report.fault(named.at, "`nodes` is empty", "name the nodes that are cut off".to_owned());
    }
    let nodes = list(named, MAX_NODES, report, |node, report| {
        let name = node_name(node, report)?;
        // A node is called as its region with a number; of the longest names not all of the region is left.
        let region = name.as_str().rsplit_once('-').and_then(|(region, _)| RegionId::new(region).ok());
        mentions.extend(region.filter(|region| region.as_str().len() <= MAX_NAME).map(|region| (region, node.at)));
        Some(name)
    });
    Some(Cut::Nodes { nodes: nodes?, regions: regions?, direction })
}

/// The links that a fault concerns; all where it does not say.
fn links(node: &Node, fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Cut> {
    let direction = fields.optional("direction", Direction::Both, report, |n, r| choice(n, &DIRECTIONS, r));
    match (fields.get("regions"), fields.get("pairs")) {
        (None, None) => {
            if let Some(node) = fields.get("direction") {
                let message = "`direction` needs a side";
                report.fault(node.named_at, message, "add for example `regions: [eu-west]`".to_owned());
            }
            Some(Cut::All)
        }
        (Some(_), Some(_)) => {
            report.fault(node.at, "a fault has either `regions` or `pairs`", "keep one of them".to_owned());
            None
        }
        (Some(_), None) => regions(fields, mentions, report).map(|regions| Cut::Side { regions, direction }),
        (None, Some(pairs)) => {
            let mut read = Vec::new();
            for item in items(pairs, MAX_REGIONS, report)? {
                let pair = list(item, 2, report, |node, report| mention(node, mentions, report))?;
                match &pair[..] {
                    [a, b] if a != b => read.push((a.clone(), b.clone())),
                    _ => report.fault(item.at, "a pair has two regions", "write [us-east, eu-west]".to_owned()),
                }
            }
            Some(Cut::Pairs { pairs: read, direction })
        }
    }
}

/// The regions that a step names; none where it does not.
fn regions(fields: &Fields<'_>, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<Vec<RegionId>> {
    let Some(node) = fields.get("regions") else { return Some(Vec::new()) };
    if decode::is_empty_list(node) {
        report.fault(node.at, "`regions` is empty", "name the regions that it is about".to_owned());
    }
    list(node, MAX_REGIONS, report, |node, report| mention(node, mentions, report))
}

fn target(
    node: &Node,
    what: &str,
    fields: &Fields<'_>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<Target> {
    match (fields.get("region"), fields.get("node"), fields.get("target")) {
        (Some(region), None, None) => mention(region, mentions, report).map(Target::Region),
        (None, Some(name), None) => node_name(name, report).map(Target::Node),
        (None, None, Some(target)) => {
            choice(target, &TARGETS, report).map(|fleet| if fleet { Target::Fleet } else { Target::Leader })
        }
        _ => {
            let message = format!("{what} has one of `region`, `node` and `target`");
            let remedy = "write `region: us-east`, `node: us-east-1`, `target: leader` or `target: fleet`";
            report.fault(node.at, message, remedy.to_owned());
            None
        }
    }
}

/// What `target` takes, and whether it is the whole fleet.
const TARGETS: [(&str, bool); 2] = [("leader", false), ("fleet", true)];

/// A load as a share of the usual one: `300%`, or `x3`.
fn factor(node: &Node, report: &mut Report<'_>) -> Option<Ratio> {
    let word = text(node, report)?;
    let read = match word.trim().strip_prefix('x') {
        Some(times) => times.parse::<u32>().ok().and_then(|times| times.checked_mul(10_000)).map(Ratio::from_parts),
        None => word.parse().ok(),
    };
    let read = read.filter(|factor| *factor <= MAX_FACTOR);
    if read.is_none() {
        let message = format!("{} is not a load of at most x1000", node.quoted());
        report.fault(node.at, message, "write for example x3 or 150%".to_owned());
    }
    read
}

/// Latest that anything is.
const MAX_LATE: Duration = Duration::from_secs(60);

/// Regions or pairs that one fault names.
const MAX_REGIONS: usize = 100;

/// Nodes that one fault names.
const MAX_NODES: usize = 1000;

/// Longest name of a region that stands whole in the names of its nodes.
const MAX_NAME: usize = 58;

/// Largest surge.
const MAX_FACTOR: Ratio = Ratio::from_parts(10_000_000);
