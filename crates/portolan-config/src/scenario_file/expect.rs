//! Reads what must hold at the end of a scenario.

use std::time::Duration;

use portolan_model::{Ratio, RegionId};

use crate::{
    Bound, Expect, LimitExpectation, Served,
    decode::{Fields, Shape, duration, entry_name, items, name, named},
    fault::Report,
    scenario_file::{MAX_LENGTH, Mentions, before_end, bound, span},
    tree::Node,
};

/// The keys of what must hold.
pub(crate) const EXPECT: Shape = Shape {
    what: "a set of expectations",
    keys: &["availability", "unavailable", "leader_changes", "config_lag_p99", "limits", "served", "converged_within"],
};

/// The keys of what must hold of one limit.
pub(crate) const LIMIT: Shape = Shape {
    what: "an expectation of a limit",
    keys: &["limit", "per_slot", "over", "over_mean", "false_rejects", "unavailable", "waited", "from", "until"],
};

pub(super) fn decode(
    node: &Node,
    length: Option<Duration>,
    mentions: &mut Mentions,
    report: &mut Report<'_>,
) -> Option<Expect> {
    let fields = Fields::open(node, &EXPECT, report)?;
    let availability = fields.get("availability").and_then(|node| bound(node, "\">= 99.9%\"", report));
    let unavailable = fields.get("unavailable").and_then(|node| bound(node, "\"<= 0\"", report));
    let leader_changes = fields.get("leader_changes").and_then(|node| bound(node, "\"<= 2\"", report));
    let config_lag_p99 = fields.get("config_lag_p99").and_then(|node| span(node, report));
    let limits = fields.optional("limits", Vec::new(), report, |node, report| {
        Some(items(node, MAX_BOUNDS, report)?.iter().filter_map(|item| limit(item, length, report)).collect())
    });
    let served = fields.optional("served", Vec::new(), report, |node, report| Some(served(node, mentions, report)));
    let converged_within =
        fields.get("converged_within").and_then(|node| duration(node, Duration::ZERO..=MAX_LENGTH, report));
    Some(Expect { availability, unavailable, leader_changes, config_lag_p99, limits, served, converged_within })
}

fn limit(node: &Node, length: Option<Duration>, report: &mut Report<'_>) -> Option<LimitExpectation> {
    let fields = Fields::open(node, &LIMIT, report)?;
    let limit = fields.require("limit", "orders-total", report).and_then(|node| name(node, report));
    let per_slot = fields.get("per_slot").and_then(|node| bound(node, "\"<= 5000\"", report));
    let share = |key: &str, report: &mut Report<'_>| -> Option<Bound<Ratio>> {
        fields.get(key).and_then(|node| bound(node, "\"<= 3%\"", report))
    };
    let (over, over_mean) = (share("over", report), share("over_mean", report));
    let (false_rejects, waited) = (share("false_rejects", report), share("waited", report));
    let unavailable = fields.get("unavailable").and_then(|node| bound(node, "\"<= 0\"", report));
    let from = fields.optional("from", Duration::ZERO, report, |node, report| before_end(node, length, report));
    let until = fields.get("until").and_then(|node| span(node, report));
    let part = fields.get("from").or(fields.get("until"));
    for counted in ["unavailable", "waited"].iter().filter(|_| part.is_some()).filter_map(|key| fields.get(key)) {
        let message = format!("{} counts the whole run, not a part of it", counted.quoted());
        report.fault(counted.at, message, "put it into an expectation without `from` and `until`".to_owned());
    }
    let bounds = ["per_slot", "over", "over_mean", "false_rejects", "unavailable", "waited"];
    if bounds.iter().all(|key| fields.get(key).is_none()) {
        let remedy = "add for example `per_slot: \"<= 5000\"` or `false_rejects: \"<= 3%\"`";
        report.fault(node.at, format!("{} expects nothing", node.quoted()), remedy.to_owned());
    }
    Some(LimitExpectation { limit: limit?, per_slot, over, over_mean, false_rejects, unavailable, waited, from, until })
}

fn served(node: &Node, mentions: &mut Mentions, report: &mut Report<'_>) -> Vec<Served> {
    let entries = named(node, "{ eu-west: \">= 1000\" }", MAX_BOUNDS, report);
    let read = entries.iter().filter_map(|entry| {
        let region = entry_name(entry, report).and_then(|name| RegionId::new(name.as_str()).ok());
        let requests = bound(&entry.node, "\">= 1000\"", report);
        let region = region?;
        mentions.push((region.clone(), entry.key_at));
        Some(Served { region, requests: requests? })
    });
    read.collect()
}

/// Expectations of one kind.
const MAX_BOUNDS: usize = 100;
