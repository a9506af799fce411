//! Reads scenario files. Checks what a file alone can show; names of regions are checked once the region map is read.

pub(crate) mod client;
pub(crate) mod expect;
pub(crate) mod fault;
mod load;
pub(crate) mod regions;
pub(crate) mod step;

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use portolan_model::{Ratio, RegionId};

use crate::{
    Bound, Comparison, Expect, GatewaySource, Scenario, SourceFile, Within,
    decode::{self, Fields, Shape, duration, entry_name, list, named, region_id, string, text, whole},
    fault::{Report, Span},
    suggest, syntax,
    tree::{Node, Value},
};

/// A scenario's keys.
pub(crate) const SCENARIO: Shape = Shape {
    what: "a scenario",
    keys: &[
        "version",
        "title",
        "config",
        "gateway",
        "regions",
        "rtt",
        "nodes",
        "length",
        "seed",
        "seeds",
        "loss",
        "jitter",
        "within",
        "limit_keys",
        "redis_rtt",
        "clients",
        "steps",
        "expect",
    ],
};

/// The keys of what becomes of packets between nodes of one region.
pub(crate) const WITHIN: Shape = Shape { what: "`within` of a scenario", keys: &["loss", "reorder", "duplicate"] };

/// Regions that a scenario names, with the places where it does.
pub(crate) type Mentions = Vec<(RegionId, Span)>;

/// Reads a scenario file into a tree and that into a scenario.
pub(crate) fn parse(report: &mut Report<'_>) -> Option<Scenario> {
    syntax::parse(report).and_then(|root| decode(&root, report))
}

fn decode(root: &Node, report: &mut Report<'_>) -> Option<Scenario> {
    let fields = Fields::open(root, &SCENARIO, report)?;
    fields.check_version(report);
    let mut mentions = Mentions::new();
    let title = fields.require("title", "One region is cut off", report).and_then(|node| string(node, report));
    let config = gateway_source(&fields, report);
    let places = regions::decode(&fields, report);
    let length = fields.require("length", "60s", report).and_then(|node| span(node, report));
    let number = |node: &Node, report: &mut Report<'_>| whole(node, 0..=u64::MAX, report);
    let seed = fields.optional("seed", 1, report, number);
    let seeds = fields.optional("seeds", 1, report, |node, report| whole(node, 1..=MAX_SEEDS, report));
    let loss = fields.optional("loss", Ratio::default(), report, decode::ratio);
    let jitter = fields.optional("jitter", Duration::ZERO, report, |node, report| {
        duration(node, Duration::ZERO..=Duration::from_secs(10), report)
    });
    let packets = fields.optional("within", Within::default(), report, within);
    let limit_keys = fields.get("limit_keys").and_then(|node| whole(node, 1..=MAX_LIMIT_KEYS, report));
    let (redis_rtt, redis_rtt_of) =
        fields.optional("redis_rtt", (REDIS_RTT, BTreeMap::new()), report, |node, report| {
            redis_trips(node, &mut mentions, report)
        });
    let mut total = load::Total::default();
    let clients = fields.optional("clients", Vec::new(), report, |node, report| {
        list(node, MAX_CLIENTS, report, |node, report| client::decode(node, &mut total, &mut mentions, report))
    });
    let mut surges = Vec::new();
    let steps = fields.optional("steps", Vec::new(), report, |node, report| {
        step::decode_all(node, length, &mut surges, &mut mentions, report)
    });
    load::check(&clients, &surges, report);
    let expect = fields.optional("expect", Expect::default(), report, |node, report| {
        expect::decode(node, length, &mut mentions, report)
    });
    Some(Scenario {
        title: title?,
        config,
        regions: places.source,
        nodes: places.nodes,
        nodes_of: places.nodes_of,
        length: length?,
        seed,
        seeds,
        loss,
        jitter,
        within: packets,
        limit_keys,
        redis_rtt,
        redis_rtt_of,
        clients,
        steps,
        expect,
        mentions,
        file: report.file().clone(),
    })
}

fn within(node: &Node, report: &mut Report<'_>) -> Option<Within> {
    let fields = Fields::open(node, &WITHIN, report)?;
    let mut share = |key| fields.optional(key, Ratio::default(), report, decode::ratio);
    Some(Within { loss: share("loss"), reorder: share("reorder"), duplicate: share("duplicate") })
}

/// One round trip for all regions, or one for each that is named.
fn redis_trips(
    node: &Node,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<(Duration, BTreeMap<RegionId, Duration>)> {
    let trip = |node: &Node, report: &mut Report<'_>| {
        duration(node, Duration::from_micros(1)..=Duration::from_secs(2), report)
    };
    if !matches!(node.value, Value::Mapping(_)) {
        return Some((trip(node, report)?, BTreeMap::new()));
    }
    let entries = named(node, "{ eu-west: 1ms, us-east: 30ms }", MAX_TRIPS, report);
    let read = entries.iter().filter_map(|entry| {
        let region = entry_name(entry, report).and_then(|name| RegionId::new(name.as_str()).ok());
        let trip = trip(&entry.node, report);
        let region = region?;
        mentions.push((region.clone(), entry.key_at));
        Some((region, trip?))
    });
    Some((REDIS_RTT, read.collect()))
}

fn gateway_source(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<GatewaySource> {
    match (fields.get("config"), fields.get("gateway")) {
        (Some(_), Some(inline)) => {
            let remedy = "keep one of them".to_owned();
            report.fault(inline.named_at, "a scenario has either `config` or `gateway`", remedy);
            None
        }
        (None, None) => None,
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

/// A region that must be one of the map.
fn mention(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Option<RegionId> {
    let id = region_id(node, report)?;
    mentions.push((id.clone(), node.at));
    Some(id)
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

/// A length of virtual time.
fn span(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
    duration(node, Duration::from_millis(1)..=MAX_LENGTH, report)
}

/// A moment of virtual time.
fn moment(node: &Node, report: &mut Report<'_>) -> Option<Duration> {
    duration(node, Duration::ZERO..=MAX_LENGTH, report)
}

/// A moment before the scenario ends.
fn before_end(node: &Node, length: Option<Duration>, report: &mut Report<'_>) -> Option<Duration> {
    let at = moment(node, report)?;
    if length.is_some_and(|length| at >= length) {
        let message = format!("{} is after the end of the scenario", node.quoted());
        report.fault(node.at, message, "make it earlier, or raise `length`".to_owned());
    }
    Some(at)
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

/// A day of virtual time, twice: a scenario may span a calendar day.
const MAX_LENGTH: Duration = Duration::from_secs(2 * 86_400);

/// Round trip to the Redis of lenders where a scenario does not say: it stands near every region.
pub(crate) const REDIS_RTT: Duration = Duration::from_millis(2);

/// Regions that one scenario gives such a round trip.
const MAX_TRIPS: usize = 100;

/// Keys that a node has room for: as many as a real one has.
const MAX_LIMIT_KEYS: u64 = 1 << 18;

/// Loads of one scenario.
const MAX_CLIENTS: usize = 1000;

/// Seeds of one scenario.
const MAX_SEEDS: u64 = 1_000_000;
