//! `plans` and `overrides` of a limit: other quotas for some consumers, each a budget of its own.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::key::{MAX_WORD, claim_name, header_name};
use crate::{
    KeyPart, LimitKey, MAX_QUOTA, PlanSource, Plans,
    decode::{Fields, Shape, named, text, within},
    fault::Report,
    tree::{Entry, Node, shorten},
};

/// The keys of plans.
pub(crate) const PLANS: Shape = Shape { what: "plans", keys: &["claim", "header", "quotas"] };

pub(super) fn plans(fields: &Fields<'_>, key: Option<&LimitKey>, cost: u32, report: &mut Report<'_>) -> Option<Plans> {
    let node = fields.get("plans")?;
    if key.is_some_and(|key| !key.parts().iter().any(KeyPart::is_consumer)) {
        let message = "`plans` go by who asks, and `key` counts all who ask together".to_owned();
        report.fault(node.named_at, message, "add `user`, `tenant` or `api_key` to `key`".to_owned());
    }
    let fields = Fields::open(node, &PLANS, report)?;
    let from = match (fields.get("claim"), fields.get("header")) {
        (Some(claim), None) => claim_name(claim, report).map(PlanSource::Claim),
        (None, Some(header)) => header_name(header, report).map(PlanSource::Header),
        (Some(_), Some(header)) => {
            let remedy = "keep `claim`: a header is only as good as whoever sets it".to_owned();
            report.fault(header.named_at, "`claim` says where the plan stands already", remedy);
            None
        }
        (None, None) => {
            fields.require("claim", "plan", report);
            None
        }
    };
    let quotas = fields.require("quotas", "{ free: 60, pro: 6000 }", report);
    let quotas = quotas.map(|node| {
        let entries = named(node, "quotas: { free: 60, pro: 6000 }", MAX_PLANS, report);
        if entries.is_empty() {
            report.fault(node.at, "`quotas` names no plan", "write for example { free: 60, pro: 6000 }".to_owned());
        }
        entries.iter().filter_map(|entry| quota(entry, "plan", cost, report)).collect()
    });
    Some(Plans { from: from?, quotas: quotas? })
}

pub(super) fn overrides(
    fields: &Fields<'_>,
    key: Option<&LimitKey>,
    cost: u32,
    report: &mut Report<'_>,
) -> BTreeMap<String, u64> {
    let Some(node) = fields.get("overrides") else { return BTreeMap::new() };
    let part = key.and_then(LimitKey::consumer);
    if let Some(key) = key.filter(|_| part.is_none()) {
        let (why, remedy) = if key.parts().iter().any(KeyPart::is_consumer) {
            ("tells consumers apart by more than one part", "keep one of user, client, header and claim in `key`")
        } else {
            ("counts all who ask together", "add `user`, `tenant` or `api_key` to `key`")
        };
        report.fault(node.named_at, format!("`overrides` name one consumer each, and `key` {why}"), remedy.to_owned());
        return BTreeMap::new();
    }
    let entries = named(node, "overrides: { alice: 6000 }", MAX_OVERRIDES, report);
    let entries = entries.iter().filter_map(|entry| {
        if let Some(KeyPart::ClientAddress { v6_prefix }) = part {
            check_client(entry, *v6_prefix, report);
        }
        quota(entry, "consumer", cost, report)
    });
    entries.collect()
}

fn quota(entry: &Entry, what: &str, cost: u32, report: &mut Report<'_>) -> Option<(String, u64)> {
    if entry.key.is_empty() || entry.key.len() > MAX_WORD || entry.key.chars().any(char::is_control) {
        let message = format!("`{}` is not the name of a {what}", shorten(&entry.key));
        report.fault(entry.key_at, message, format!("write 1 to {MAX_WORD} bytes without control characters"));
        return None;
    }
    let quota = quota_of(&entry.node, report)?;
    if quota < u64::from(cost) {
        let message = format!("a request may cost {cost}, and {} is less: it could never pass", entry.node.quoted());
        report.fault(entry.node.at, message, format!("write at least {cost}, or lower `cost`"));
        return None;
    }
    Some((entry.key.to_string(), quota))
}

fn quota_of(node: &Node, report: &mut Report<'_>) -> Option<u64> {
    let word = text(node, report)?;
    match word.parse() {
        Ok(count) => within(node, count, 1..=MAX_QUOTA, ToString::to_string, report),
        Err(_) => {
            let number = word.split('/').next().unwrap_or_default().trim();
            let remedy = match number.parse::<u64>() {
                Ok(number) => format!("write `{number}`: it counts over the limit's own window"),
                Err(_) => format!("write a number from 1 to {MAX_QUOTA}, counted over the limit's own window"),
            };
            report.fault(node.at, format!("{} is not a whole number", node.quoted()), remedy);
            None
        }
    }
}

/// A client is named as it is counted, so that no two overrides mean one.
fn check_client(entry: &Entry, v6_prefix: u8, report: &mut Report<'_>) {
    let address = entry.key.parse::<IpNet>().map(|network| network.addr()).or_else(|_| entry.key.parse::<IpAddr>());
    let (message, remedy) = match address {
        Ok(address) => {
            let counted = KeyPart::client_text(address, v6_prefix);
            if counted == *entry.key {
                return;
            }
            (format!("`{}` is not counted as such", shorten(&entry.key)), format!("write \"{counted}\""))
        }
        Err(_) => {
            let remedy = format!("write an address such as 192.0.2.7, or a network such as \"2001:db8::/{v6_prefix}\"");
            (format!("`{}` is not a client's address", shorten(&entry.key)), remedy)
        }
    };
    report.fault(entry.key_at, message, remedy);
}

/// Plans of one limit.
const MAX_PLANS: usize = 100;

/// Overrides of one limit.
const MAX_OVERRIDES: usize = 1000;
