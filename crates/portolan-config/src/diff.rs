//! What changes between two snapshots, in words an operator checks before applying. Compares meaning, not text: a moved
//! comment or another order of keys is no change.

use std::{collections::BTreeMap, fmt::Display};

use portolan_model::render_duration;

use crate::{JwtAuth, Limit, Listener, Route, Service, Snapshot};

/// A thing as pairs of key and value, in the words of the document.
type Facts = Vec<(String, String)>;

/// Returns one line per change, sorted by kind and name: `+` came, `-` went, `~` became another. Empty when both mean the
/// same.
pub fn diff(old: &Snapshot, new: &Snapshot) -> Vec<String> {
    let (old, new) = (things(old), things(new));
    let mut lines = Vec::new();
    for (name, before) in &old {
        match new.get(name) {
            None => lines.push((name, format!("- {}", title(name)))),
            Some(after) if after != before => {
                lines.push((name, format!("~ {}: {}", title(name), changes(before, after))));
            }
            Some(_) => {}
        }
    }
    for (name, facts) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        let facts: Vec<String> = facts.iter().map(|(key, value)| format!("{key} {value}")).collect();
        lines.push((name, format!("+ {}: {}", title(name), facts.join(", "))));
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
    gone.chain(kept).collect::<Vec<_>>().join(", ")
}

fn things(snapshot: &Snapshot) -> BTreeMap<ThingName, Facts> {
    let mut things = BTreeMap::from([((0, "listener", String::new()), listener(&snapshot.listener))]);
    for (name, it) in &snapshot.services {
        things.insert((1, "service", name.to_string()), service(it));
    }
    for (name, it) in &snapshot.auth {
        things.insert((2, "auth", name.to_string()), auth(it));
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
    vec![
        fact("key", &it.key),
        fact("rate", &it.algorithm),
        fact("on_partition", it.on_partition),
        fact("expose_slot", it.expose_slot),
    ]
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
