//! What changes between two snapshots, in words an operator checks before applying. Compares meaning, not text: a moved
//! comment or another order of keys is no change.

use std::{collections::BTreeMap, fmt::Display};

use portolan_model::{Rate, Ratio, render_duration};

use crate::{Algorithm, Budget, Cost, JwtAuth, Limit, Listener, Route, Service, Shares, Snapshot, Window};

/// A thing as pairs of key and value, in the words of the document.
type Facts = Vec<(String, String)>;

/// Returns one line per change, sorted by kind and name: `+` came, `-` went, `~` became another. Empty when both mean the
/// same.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let limits: BTreeMap<&str, &str> = old
        .limits
        .iter()
        .filter_map(|(name, before)| {
            let after = new.limits.get(name)?;
            Some((name.as_str(), consequence(before, after, old.lender_of(before) != new.lender_of(after))))
        })
        .collect();
    let (old, new) = (things(old), things(new));
    let mut lines = Vec::new();
    for (name, before) in &old {
        match new.get(name) {
            None => lines.push((name, format!("- {}", title(name)))),
            Some(after) if after != before => {
                let then = if name.1 == "limit" { limits.get(&*name.2).copied().unwrap_or("") } else { "" };
                lines.push((name, format!("~ {}: {}{then}", title(name), changes(before, after))));
            }
            Some(_) => {}
        }
    }
    for (name, facts) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        let facts: Vec<String> = facts.iter().map(|(key, value)| format!("{key} {value}")).collect();
        lines.push((name, format!("+ {}: {}", title(name), listed(facts))));
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Kind and name of a thing; the number sorts kinds as a document does.
type ThingName = (u8, &'static str, String);

fn title((_, kind, name): &ThingName) -> String {
    if name.is_empty() { (*kind).to_owned() } else { format!("{kind} {name}") }
}

fn changes(before: &Facts, after: &Facts) -> String {
    let find = |facts: &Facts, key: &str| facts.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone());
    let gone = before.iter().filter(|(key, _)| find(after, key).is_none()).map(|(key, old)| format!("{key} was {old}"));
    let kept = after.iter().filter_map(|(key, new)| match find(before, key) {
        None => Some(format!("{key} {new}")),
        Some(old) if old != *new => Some(format!("{key} {old} -> {new}")),
        Some(_) => None,
    });
    listed(gone.chain(kept).collect())
}

/// What a change of a limit does to counts and shares, where that is not plain from the change.
fn consequence(before: &Limit, after: &Limit, other_lender: bool) -> &'static str {
    if other_lender
        || before.per != after.per
        || before.key != after.key
        || !before.algorithm.comparable(&after.algorithm)
    {
        "; its counts start anew"
    } else if before.shares != after.shares && after.shares != Shares::Demand {
        "; the shares follow when every region has acknowledged"
    } else {
        ""
    }
}

/// The first of many: a thousand overrides are read in the document, not in a difference.
fn listed(mut words: Vec<String>) -> String {
    let more = words.len().saturating_sub(MAX_SHOWN);
    if more > 0 {
        words.truncate(MAX_SHOWN);
        words.push(format!("and {more} more"));
    }
    words.join(", ")
}

fn things(snapshot: &Snapshot) -> BTreeMap<ThingName, Facts> {
    let mut things = BTreeMap::from([((0, "listener", String::new()), listener(&snapshot.listener))]);
    for (name, it) in &snapshot.services {
        things.insert((1, "service", name.to_string()), service(it));
    }
    for (name, it) in &snapshot.auth {
        things.insert((2, "auth", name.to_string()), auth(it));
    }
    for (name, it) in &snapshot.lenders {
        things.insert((3, "lender", name.to_string()), vec![fact("redis", &it.redis)]);
    }
    for (name, it) in &snapshot.limits {
        things.insert((3, "limit", name.to_string()), limit(it));
    }
    for (name, it) in &snapshot.routes {
        things.insert((4, "route", name.to_string()), route(it));
    }
    for zone in snapshot.zones.values() {
        for (label, record) in &zone.records {
            let name = if label == "@" { zone.name.clone() } else { format!("{label}.{}", zone.name) };
            let facts = vec![fact("regions", list(&record.regions)), fact("ttl", render_duration(record.ttl))];
            things.insert((5, "dns", name), facts);
        }
    }
    things
}

fn fact(key: &str, value: impl Display) -> (String, String) {
    (key.to_owned(), value.to_string())
}

fn list<T: Display>(items: &[T]) -> String {
    format!("[{}]", items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn listener(it: &Listener) -> Facts {
    vec![
        fact("client_limit", it.client_limit),
        fact("max_header_bytes", it.max_header_bytes),
        fact("max_headers", it.max_headers),
        fact("max_body", it.max_body),
        fact("header_timeout", render_duration(it.header_timeout)),
        fact("handshake_timeout", render_duration(it.handshake_timeout)),
        fact("idle_timeout", render_duration(it.idle_timeout)),
    ]
}

fn service(it: &Service) -> Facts {
    let mut facts: Facts = it.endpoints.iter().map(|(region, list_of)| fact(region.as_str(), list(list_of))).collect();
    facts.push(fact("connect_timeout", render_duration(it.connect_timeout)));
    let probe = it.health.path.clone().unwrap_or_else(|| "a TCP connection".to_owned());
    let (interval, timeout) = (render_duration(it.health.interval), render_duration(it.health.timeout));
    let (fall, rise) = (it.health.fall, it.health.rise);
    facts.push(fact("health", format!("{probe} every {interval} within {timeout}, fall {fall}, rise {rise}")));
    facts
}

fn auth(it: &JwtAuth) -> Facts {
    let keys = portolan_model::HashKey::new(*b"portolan-history").hash(&[it.jwks.as_bytes()]);
    vec![
        fact("issuer", &it.issuer),
        fact("audience", list(&it.audience)),
        fact("user_claim", &it.user_claim),
        fact("leeway", render_duration(it.leeway)),
        fact("keys", format!("{:08x}", keys.0 as u32)),
    ]
}

fn limit(it: &Limit) -> Facts {
    let mut facts = vec![fact("key", &it.key)];
    match &it.algorithm {
        Algorithm::FixedWindow { quota, window: Window::Length(per) } => {
            facts.push(fact("rate", Rate { count: *quota, per: *per }));
        }
        Algorithm::FixedWindow { quota, window: Window::Calendar { period, zone } } => {
            facts.extend([fact("quota", format!("{quota}/{}", period.as_str())), fact("time_zone", zone)]);
        }
        Algorithm::SlidingWindow { quota, window } => {
            facts.extend([fact("rate", Rate { count: *quota, per: *window }), fact("algorithm", "sliding")]);
        }
        Algorithm::TokenBucket { rate, burst } => {
            facts.extend([fact("rate", rate), fact("algorithm", "token_bucket"), fact("burst", burst)]);
        }
        Algorithm::Concurrency { limit } => facts.push(fact("concurrency", limit)),
    }
    facts.push(fact("on_partition", it.on_partition));
    facts.push(fact("shares", &it.shares));
    // What stands at its default for most limits is told only where it does not.
    let others = [
        (it.overdraft != Ratio::default()).then(|| fact("overdraft", it.overdraft)),
        (!it.borrow_wait.is_zero()).then(|| fact("borrow_wait", render_duration(it.borrow_wait))),
        it.reclaim.map(|after| fact("reclaim", render_duration(after))),
        it.lender.as_ref().map(|lender| fact("lender", lender)),
        (it.cost != Cost::default()).then(|| fact("cost", &it.cost)),
        (!it.refund_on.is_empty()).then(|| fact("refund_on", list(&it.refund_on))),
        (it.per != Budget::default()).then(|| fact("per", it.per.as_str())),
        it.plans.as_ref().map(|plans| fact("plans by", &plans.from)),
        it.shadow.then(|| fact("shadow", true)),
        it.expose_slot.then(|| fact("expose_slot", true)),
    ];
    facts.extend(others.into_iter().flatten());
    let plans = it.plans.iter().flat_map(|plans| &plans.quotas);
    facts.extend(plans.map(|(name, quota)| fact(&format!("plan {name}"), quota)));
    facts.extend(it.overrides.iter().map(|(name, quota)| fact(&format!("override {name}"), quota)));
    facts
}

fn route(it: &Route) -> Facts {
    let mut facts = vec![fact("host", &it.host), fact("path", &it.path)];
    if !it.methods.is_empty() {
        facts.push(fact("methods", list(&it.methods)));
    }
    facts.extend(it.auth.as_ref().map(|auth| fact("auth", auth)));
    if !it.scopes.is_empty() {
        facts.push(fact("scopes", list(&it.scopes)));
    }
    if !it.limits.is_empty() {
        facts.push(fact("limits", list(&it.limits)));
    }
    facts.push(fact("service", &it.service));
    facts.push(fact("timeout", render_duration(it.timeout)));
    facts.extend(it.max_body.map(|size| fact("max_body", size)));
    facts
}

/// Facts of one thing that a difference lists.
const MAX_SHOWN: usize = 20;
