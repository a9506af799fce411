//! `dns`: which host names are answered with which regions.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::RegionId;

use super::Scope;
use crate::{
    Zone, ZoneRecord,
    decode::{self, Fields, Shape, duration, named, region_id},
    fault::{Report, Span},
    tree::{Entry, Node, Value, shorten},
};

/// A record's keys.
pub(crate) const RECORD: Shape = Shape { what: "a DNS record", keys: &["regions", "ttl"] };

pub(super) fn decode(entries: &[Entry], scope: &Scope<'_>, report: &mut Report<'_>) -> BTreeMap<String, Zone> {
    let mut zones: BTreeMap<String, Zone> = BTreeMap::new();
    for entry in entries {
        let Some(name) = host_name(&entry.key, entry.key_at, report) else { continue };
        let overlap = zones.keys().find(|other| within(other, &name) || within(&name, other));
        if let Some(other) = overlap {
            let message = format!("zone `{name}` overlaps zone `{other}`");
            report.fault(entry.key_at, message, "keep one of them".to_owned());
        }
        let records = named(&entry.node, "{ NAME: { regions: all } }", MAX_RECORDS, report);
        let records = records.iter().filter_map(|record_entry| record(record_entry, &name, scope, report)).collect();
        zones.insert(name.clone(), Zone { name, records });
    }
    zones
}

fn within(zone: &str, name: &str) -> bool {
    name == zone || name.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'))
}

fn record(entry: &Entry, zone: &str, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<(String, ZoneRecord)> {
    let label = match &*entry.key {
        "@" => Some("@".to_owned()),
        label if within(zone, label) => {
            let relative = label.strip_suffix(zone).unwrap_or(label).trim_end_matches('.');
            let remedy = format!("write `{}`", if relative.is_empty() { "@" } else { relative });
            let message = format!("`{}` repeats its zone: names are relative to it", shorten(label));
            report.fault(entry.key_at, message, remedy);
            None
        }
        label => host_name(label, entry.key_at, report),
    };
    let fields = Fields::open(&entry.node, &RECORD, report)?;
    let regions = fields.require("regions", "all", report).and_then(|node| regions(node, scope, report));
    let ttl = fields.optional("ttl", Duration::from_secs(30), report, |node, report| {
        duration(node, Duration::from_secs(1)..=Duration::from_secs(86_400), report)
    });
    Some((label?, ZoneRecord { regions: regions?, ttl }))
}

fn regions(node: &Node, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Vec<RegionId>> {
    match &node.value {
        Value::Scalar(word) if &**word == "all" => return Some(scope.regions.ids().to_vec()),
        Value::Scalar(word) if scope.regions.ids().iter().all(|id| id.as_str() != &**word) => {
            let remedy = "write `regions: all` or a list such as [eu-west]".to_owned();
            report.fault(node.at, format!("{} is neither `all` nor a list", node.quoted()), remedy);
            return None;
        }
        _ => {}
    }
    let known = |node: &Node, report: &mut Report<'_>| {
        let id = region_id(node, report)?;
        if scope.regions.get(&id).is_none() {
            decode::dangling(node, "region", scope.regions.ids().iter().map(RegionId::as_str), report);
            return None;
        }
        Some(id)
    };
    let mut regions = decode::list(node, MAX_REGIONS, report, known)?;
    if decode::is_empty_list(node) {
        let remedy = "name a region, or write `regions: all`".to_owned();
        report.fault(node.at, "a DNS record without regions cannot be answered", remedy);
    }
    regions.sort();
    regions.dedup();
    Some(regions)
}

/// A host name in lower case without a trailing dot (RFC 1035 §2.3.1).
pub(super) fn host_name(text: &str, at: Span, report: &mut Report<'_>) -> Option<String> {
    let quoted = shorten(text);
    let lower = text.trim_end_matches('.').to_ascii_lowercase();
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if lower.len() > 253 || !lower.split('.').all(label) {
        let remedy = "write for example api.example.test".to_owned();
        report.fault(at, format!("`{quoted}` is not a host name"), remedy);
        return None;
    }
    if lower != text {
        let message = format!("`{quoted}` is not in lower case without a trailing dot");
        report.fault(at, message, format!("write `{lower}`"));
        return None;
    }
    Some(lower)
}

/// Records of one zone.
const MAX_RECORDS: usize = 10_000;

/// Regions of one record.
const MAX_REGIONS: usize = 100;
