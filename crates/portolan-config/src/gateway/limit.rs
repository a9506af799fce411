//! `limits`: what is counted, how much of it, and what holds while regions are cut off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_model::{Name, Rate, render_duration};

use crate::{
    Limit, LimitKeyKind, OnPartition,
    decode::{self, Fields, Shape, choice, entry_name, flag, within},
    fault::Report,
    tree::{Entry, Node},
};

/// A limit's keys.
pub(crate) const LIMIT: Shape = Shape { what: "a limit", keys: &["key", "rate", "on_partition", "expose_slot"] };

/// What a limit can count by.
pub(crate) const KEY_KINDS: [(&str, LimitKeyKind); 5] = [
    ("global", LimitKeyKind::Global),
    ("service", LimitKeyKind::Service),
    ("route", LimitKeyKind::Route),
    ("user", LimitKeyKind::User),
    ("client", LimitKeyKind::ClientAddress),
];

/// What a limit can do while regions are cut off.
pub(crate) const POLICIES: [(&str, OnPartition); 3] =
    [("static", OnPartition::Static), ("open", OnPartition::Open), ("closed", OnPartition::Closed)];

pub(super) fn decode(entries: &[Entry], report: &mut Report<'_>) -> BTreeMap<Name, Arc<Limit>> {
    let limits = entries.iter().filter_map(|entry| limit(entry, report));
    limits.map(|limit| (limit.name.clone(), Arc::new(limit))).collect()
}

fn limit(entry: &Entry, report: &mut Report<'_>) -> Option<Limit> {
    let name = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &LIMIT, report)?;
    let key = fields.require("key", "user", report).and_then(|node| choice(node, &KEY_KINDS, report));
    let rate = fields.require("rate", "600/min", report).and_then(|node| bounded_rate(node, report));
    let on_partition = fields.optional("on_partition", OnPartition::default(), report, policy);
    let expose_slot = fields.optional("expose_slot", false, report, flag);
    Some(Limit { name: name?, key: key?, rate: rate?, on_partition, expose_slot })
}

fn policy(node: &Node, report: &mut Report<'_>) -> Option<OnPartition> {
    choice(node, &POLICIES, report)
}

/// A rate that shares of regions can be cut from.
pub(super) fn bounded_rate(node: &Node, report: &mut Report<'_>) -> Option<Rate> {
    let rate = decode::rate(node, report)?;
    let count = within(node, rate.count, 1..=MAX_COUNT, |count| format!("{count} per window"), report);
    let whole_millis = rate.per.subsec_nanos() % 1_000_000 == 0;
    if !(MIN_WINDOW..=MAX_WINDOW).contains(&rate.per) || !whole_millis {
        let window = render_duration(rate.per);
        let remedy = "write a window from 1s to 31d in whole milliseconds".to_owned();
        report.fault(node.at, format!("{} has a window of {window}", node.quoted()), remedy);
        return None;
    }
    count.map(|_| rate)
}

/// Counters are 32 bits wide on the request path.
const MAX_COUNT: u64 = 1_000_000_000;

/// Shorter windows would end before another region hears of them.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// A month of marks.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 86_400);
