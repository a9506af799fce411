//! `limits`: what is counted, how much of it, and what holds while regions are cut off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_model::{Name, Rate, Ratio, render_duration};

use crate::{
    Algorithm, Budget, Cost, KeyPart, Limit, LimitKey, OnPartition, Shares, Window,
    decode::{self, Fields, Shape, choice, entry_name, flag, within},
    fault::Report,
    tree::{Entry, Node},
};

/// A limit's keys.
pub(crate) const LIMIT: Shape = Shape { what: "a limit", keys: &["key", "rate", "on_partition", "expose_slot"] };

/// What a limit can count by.
pub(crate) const KEY_KINDS: [(&str, KeyPart); 5] = [
    ("global", KeyPart::Global),
    ("service", KeyPart::Service),
    ("route", KeyPart::Route),
    ("user", KeyPart::User),
    ("client", KeyPart::CLIENT),
];

/// What a limit can do while regions are cut off.
pub(crate) const POLICIES: [(&str, OnPartition); 4] = [
    ("static", OnPartition::Static),
    ("open", OnPartition::OPEN),
    ("closed", OnPartition::Closed),
    ("closed(minority)", OnPartition::ClosedMinority),
];

pub(super) fn decode(entries: &[Entry], report: &mut Report<'_>) -> BTreeMap<Name, Arc<Limit>> {
    let limits = entries.iter().filter_map(|entry| limit(entry, report));
    limits.map(|limit| (limit.name.clone(), Arc::new(limit))).collect()
}

fn limit(entry: &Entry, report: &mut Report<'_>) -> Option<Limit> {
    let name = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &LIMIT, report)?;
    let key = fields.require("key", "user", report).and_then(|node| key(node, report));
    let rate = fields.require("rate", "600/min", report).and_then(|node| bounded_rate(node, report));
    let on_partition = fields.optional("on_partition", OnPartition::default(), report, policy);
    let expose_slot = fields.optional("expose_slot", false, report, flag);
    let rate = rate?;
    Some(Limit {
        name: name?,
        key: key?,
        algorithm: Algorithm::FixedWindow { quota: rate.count, window: Window::Length(rate.per) },
        on_partition,
        shares: Shares::Equal,
        overdraft: Ratio::default(),
        borrow_wait: Duration::ZERO,
        reclaim: None,
        lender: None,
        cost: Cost::default(),
        refund_on: Vec::new(),
        per: Budget::Limit,
        plans: None,
        overrides: BTreeMap::new(),
        shadow: false,
        expose_slot,
    })
}

fn key(node: &Node, report: &mut Report<'_>) -> Option<LimitKey> {
    let words = KEY_KINDS.map(|(word, _)| (word, word));
    let word = choice(node, &words, report)?;
    let part = KEY_KINDS.into_iter().find(|(known, _)| *known == word).map(|(_, part)| part)?;
    LimitKey::new(vec![part])
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
