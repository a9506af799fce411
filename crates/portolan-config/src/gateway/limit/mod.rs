//! `limits`: what is counted, how much of it, and what holds while regions are cut off.

mod consumer;
mod cost;
mod count;
mod key;
mod shares;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_model::{Name, Ratio};

pub(super) use self::count::bounded_rate;
use super::Scope;
use crate::{
    Algorithm, Budget, Lender, Limit, OnPartition, Shares,
    decode::{Fields, Shape, choice, dangling, duration, entry_name, flag, ratio_up_to, string, text},
    fault::Report,
    suggest,
    tree::{Entry, Node},
};

#[cfg(test)]
pub(crate) use self::{
    consumer::PLANS,
    cost::{COST, REFUND_WORD},
    count::ALGORITHMS,
    key::{KEY_PART, KEY_WORDS},
    shares::SHARE_WORDS,
};

/// A limit's keys.
pub(crate) const LIMIT: Shape = Shape {
    what: "a limit",
    keys: &[
        "key",
        "rate",
        "quota",
        "time_zone",
        "concurrency",
        "algorithm",
        "burst",
        "on_partition",
        "shares",
        "overdraft",
        "borrow_wait",
        "reclaim",
        "lender",
        "cost",
        "refund_on",
        "per",
        "plans",
        "overrides",
        "shadow",
        "expose_slot",
    ],
};

/// What a limit can do while regions are cut off; `open` takes a cap in brackets as well.
pub(crate) const POLICIES: [(&str, OnPartition); 5] = [
    ("static", OnPartition::Static),
    ("open", OnPartition::OPEN),
    ("closed", OnPartition::Closed),
    ("closed(any)", OnPartition::Closed),
    ("closed(minority)", OnPartition::ClosedMinority),
];

/// What the routes that name a limit can share.
pub(crate) const BUDGETS: [(&str, Budget); 2] = [("limit", Budget::Limit), ("route", Budget::Route)];

/// A lender's keys.
pub(crate) const LENDER: Shape = Shape { what: "a lender", keys: &["redis"] };

pub(super) fn decode(entries: &[Entry], scope: &Scope<'_>, report: &mut Report<'_>) -> BTreeMap<Name, Arc<Limit>> {
    let mut limits = BTreeMap::new();
    let mut budgets = 0;
    let mut by_demand = 0;
    for entry in entries {
        let Some(limit) = limit(entry, scope, report) else { continue };
        let fits = budgets <= MAX_BUDGETS;
        budgets += 1 + limit.overrides.len() + limit.plans.as_ref().map_or(0, |plans| plans.quotas.len());
        if fits && budgets > MAX_BUDGETS {
            let message = format!("with `{}` there are more than {MAX_BUDGETS} limits, plans and overrides", entry.key);
            report.fault(entry.key_at, message, "let consumers share plans in place of overrides".to_owned());
        }
        by_demand += usize::from(limit.shares == Shares::Demand);
        if limit.shares == Shares::Demand && by_demand == MAX_BY_DEMAND + 1 {
            let message = format!("with `{}` more than {MAX_BY_DEMAND} limits have `shares: demand`", entry.key);
            let remedy = "leave `shares` out, or write a weight for every region; regions lend all the same";
            report.fault(entry.key_at, message, remedy.to_owned());
        }
        limits.insert(limit.name.clone(), Arc::new(limit));
    }
    limits
}

fn limit(entry: &Entry, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Limit> {
    let name = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &LIMIT, report)?;
    let key = fields.require("key", "user", report).and_then(|node| key::key(node, report));
    let algorithm = count::algorithm(&fields, report);
    let policy = |node: &Node, report: &mut Report<'_>| policy(node, scope, report);
    let on_partition = fields.optional("on_partition", OnPartition::default(), report, policy);
    let shares = fields.optional("shares", Shares::default(), report, |node, r| shares::shares(node, scope, r));
    let most = 10_000 * u32::try_from(scope.regions.ids().len().saturating_sub(1)).unwrap_or(u32::MAX).clamp(1, 1000);
    let overdraft =
        fields.optional("overdraft", Ratio::default(), report, |node, r| ratio_up_to(node, Ratio::from_parts(most), r));
    let borrow_wait = fields.optional("borrow_wait", Duration::ZERO, report, |node, r| duration(node, BORROW_WAITS, r));
    let reclaim = fields.optional("reclaim", None, report, |node, r| duration(node, RECLAIMS, r).map(Some));
    let lender = fields.get("lender").and_then(|node| lender_of(node, scope, report));
    let cost = fields.optional("cost", Default::default(), report, |node, r| cost::cost(node, algorithm.as_ref(), r));
    let refund_on = fields.optional("refund_on", Vec::new(), report, cost::refund_on);
    let per = fields.optional("per", Budget::default(), report, |node, r| choice(node, &BUDGETS, r));
    let plans = consumer::plans(&fields, key.as_ref(), cost.most(), report);
    let overrides = consumer::overrides(&fields, key.as_ref(), cost.most(), report);
    let shadow = fields.optional("shadow", false, report, flag);
    let expose_slot = fields.optional("expose_slot", false, report, flag);
    let algorithm = algorithm?;
    refuse_what_has_no_window(&fields, &algorithm, report);
    Some(Limit {
        name: name?,
        key: key?,
        algorithm,
        on_partition,
        shares,
        overdraft,
        borrow_wait,
        reclaim,
        lender,
        cost,
        refund_on,
        per,
        plans,
        overrides,
        shadow,
        expose_slot,
    })
}

/// Notes keys that mean nothing for a limit without windows, or with ones that overlap.
fn refuse_what_has_no_window(fields: &Fields<'_>, algorithm: &Algorithm, report: &mut Report<'_>) {
    let (what, keys): (_, &[(&str, &str)]) = match algorithm {
        Algorithm::Concurrency { .. } => (
            "a concurrency limit",
            &[
                ("overdraft", "it has no window to be over in"),
                ("refund_on", "a unit comes back when its request ends, whatever came of it"),
                ("lender", "a loan would have no window to end with"),
                ("reclaim", "what a region that is cut off holds in flight has no window to end with"),
                ("expose_slot", "it has no windows"),
            ],
        ),
        Algorithm::TokenBucket { .. } => (
            "a token bucket",
            &[
                ("overdraft", "it has no window to be over in; raise `burst`"),
                ("lender", "a loan would have no window to end with"),
                ("expose_slot", "it has no windows"),
            ],
        ),
        Algorithm::SlidingWindow { .. } => {
            ("a sliding window", &[("lender", "it lends of one window, and what is used counts in the next, too")])
        }
        Algorithm::FixedWindow { .. } => return,
    };
    for (key, why) in keys {
        if let Some(node) = fields.get(key) {
            report.fault(node.named_at, format!("`{key}` does not go with {what}: {why}"), format!("remove `{key}`"));
        }
    }
}

fn policy(node: &Node, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<OnPartition> {
    let word = text(node, report)?;
    let Some(cap) = word.strip_prefix("open(").and_then(|rest| rest.strip_suffix(')')) else {
        return choice(node, &POLICIES, report);
    };
    let most = u32::try_from(scope.regions.ids().len()).unwrap_or(u32::MAX).clamp(2, 1000);
    let parts = times(cap).filter(|parts| (10_000..=10_000 * most).contains(parts));
    if parts.is_none() {
        let remedy = format!("write how many times the limit may be reached, from open(1) to open({most})");
        report.fault(node.at, format!("{} has no such cap", node.quoted()), remedy);
    }
    Some(OnPartition::Open { cap: Some(Ratio::from_parts(parts?)) })
}

/// A factor with up to four decimals, in parts per 10 000.
fn times(text: &str) -> Option<u32> {
    let (whole, decimals) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if decimals.len() > 4 || !digits(whole) || !digits(decimals) {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(format!("{decimals:0<4}").parse().ok()?)
}

fn lender_of(node: &Node, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Name> {
    let word = text(node, report)?;
    if !scope.lenders.contains(&**word) {
        dangling(node, "lender", scope.lenders.iter().copied(), report);
        return None;
    }
    Name::new(word).ok()
}

pub(super) fn lenders(entries: &[Entry], report: &mut Report<'_>) -> BTreeMap<Name, Arc<Lender>> {
    let lenders = entries.iter().filter_map(|entry| {
        let name = entry_name(entry, report);
        let fields = Fields::open(&entry.node, &LENDER, report)?;
        let redis = fields.require("redis", "redis://127.0.0.1:6379/0", report).and_then(|node| redis(node, report));
        Some(Lender { name: name?, redis: redis? })
    });
    lenders.map(|lender| (lender.name.clone(), Arc::new(lender))).collect()
}

fn redis(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let url = string(node, report)?;
    let rest = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or_default()).filter(|host| !host.is_empty());
    let Some(host) = host else {
        let remedy = "write redis://HOST:PORT/DATABASE, or rediss:// over TLS".to_owned();
        report.fault(node.at, format!("{} is not the address of a Redis", node.quoted()), remedy);
        return None;
    };
    if host.contains('@') {
        // The document is kept in every node's history, and shown to whoever may read it.
        let remedy = "let the network or TLS say who may ask, and remove what stands before `@`".to_owned();
        report.fault(node.at, "the address of a lender holds a secret", remedy);
        return None;
    }
    Some(url)
}

/// What one region may be asked to wait for another: longer, and the client is better off asking again.
const BORROW_WAITS: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(1);

/// From a lease that survives a slow leader's election to one that a long maintenance does not outlive.
const RECLAIMS: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(86_400);

/// Limits, plans and overrides of a document: each has counters and shares of its own on every node.
const MAX_BUDGETS: usize = 20_000;

/// Limits that are split by demand: every node tells all others, once a second, what each of them was asked for.
const MAX_BY_DEMAND: usize = 16;

/// Says that a key has no use here, and what to do about it.
fn useless(node: &Node, why: &str, remedy: &str, report: &mut Report<'_>) {
    report.fault(node.named_at, why.to_owned(), remedy.to_owned());
}

/// One of `known`, with a guess for a mistyped word.
fn unknown_word(node: &Node, word: &str, what: &str, known: &[&str], report: &mut Report<'_>) {
    report.fault(node.at, format!("{} is not {what}", node.quoted()), suggest::remedy(word, known.iter().copied()));
}
