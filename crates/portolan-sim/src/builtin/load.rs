//! Load for every route of a document: enough users, claims and headers that each limit is reached on its own. Regions
//! send in proportion to their capacity, since equal load everywhere would need no lending.

use std::{collections::BTreeMap, fmt::Write};

use portolan_config::{
    Algorithm, Budget, Cost, HostMatch, KeyPart, Limit, PathMatch, Region, RegionMap, Route, Snapshot,
};
use portolan_model::{Name, RegionId};

/// The load that each limit is asked for, in tenths of what it allows.
const PRESSURE_TENTHS: u128 = 15;

/// Consumers that press a limit which counts consumers apart.
const PRESSING_CONSUMERS: u64 = 3;

/// Most requests per second for one limit: what a rehearsal of a minute carries in seconds of real time.
const MAX_RATE: u64 = 10_000;

/// Requests per second and region on a route without limits.
const FREE_RATE: u64 = 5;

/// Most users of one load, as scenarios have it.
const MAX_USERS: u64 = 1_000_000;

/// Loads of one scenario, as scenarios have it; with more regions than fit, those with the largest capacity send.
const MAX_LOADS: usize = 1000;

/// Writes the `clients` of a scenario that lasts `length_s` seconds.
pub fn write(snapshot: &Snapshot, regions: &RegionMap, length_s: u64) -> String {
    let wants = wants(snapshot, length_s);
    let mut senders: Vec<&Region> = regions.iter().collect();
    senders.sort_by_key(|region| std::cmp::Reverse(weight(region)));
    senders.truncate((MAX_LOADS / wants.len().max(1)).max(1));
    let total: u128 = senders.iter().map(|region| u128::from(weight(region))).sum();
    let mut text = String::from("clients:\n");
    for want in wants.iter().take(MAX_LOADS) {
        let _ = writeln!(text, "  # {}", want.why);
        for region in &senders {
            let part = |whole: u128| (whole * u128::from(weight(region))).div_ceil(total.max(1)).max(1);
            let per_minute = if want.each { want.per_minute } else { part(want.per_minute) };
            let consumers = if want.shared { want.consumers.into() } else { part(want.consumers.into()) };
            let _ = writeln!(text, "  - {}", want.line(&region.id, per_minute, consumers));
        }
    }
    text
}

/// What a region's load weighs: its capacity, where the region file says it.
pub fn weight(region: &Region) -> u64 {
    let per_second = |rate: portolan_model::Rate| u128::from(rate.count) * 1000 / rate.per.as_millis().max(1);
    let weight = region.capacity.map_or(1000, per_second);
    u64::try_from(weight).unwrap_or(u64::MAX).max(1)
}

/// One kind of request, sent from every region.
struct Want<'a> {
    snapshot: &'a Snapshot,
    route: &'a Route,
    why: String,
    /// Over all regions.
    per_minute: u128,
    /// Consumers that share it over all regions; each region has its own ones where `shared` is not set.
    consumers: u64,
    shared: bool,
    /// Whether every region sends all of it: a client's address is of one region.
    each: bool,
    /// Whether requests stay at their endpoint for a second.
    lasting: bool,
}

/// A want for each route and each limit; a limit that several routes share is pressed through the first.
fn wants(snapshot: &Snapshot, length_s: u64) -> Vec<Want<'_>> {
    let mut wants = Vec::new();
    let mut pressed: BTreeMap<&Name, ()> = BTreeMap::new();
    for route in snapshot.routes.values() {
        if route.limits.is_empty() {
            wants.push(Want {
                snapshot,
                route,
                why: format!("route {}: no limits", route.name),
                per_minute: u128::from(FREE_RATE) * 60,
                consumers: 1,
                shared: true,
                each: false,
                lasting: false,
            });
        }
        for limit in route.limits.iter().filter_map(|name| snapshot.limits.get(name)) {
            let again = pressed.insert(&limit.name, ()).is_some();
            if !again || limit.per == Budget::Route {
                wants.push(want(snapshot, route, limit, length_s));
            }
        }
    }
    wants
}

/// The load that asks one limit for half as much again as it allows.
fn want<'a>(snapshot: &'a Snapshot, route: &'a Route, limit: &Limit, length_s: u64) -> Want<'a> {
    let counts_consumers = limit.key.parts().iter().any(KeyPart::is_consumer);
    let keys = if counts_consumers { PRESSING_CONSUMERS } else { 1 };
    // What a consumer may have within the scenario, asked for evenly.
    let units = PRESSURE_TENTHS * u128::from(limit.quota()) * u128::from(keys);
    let per_minute = (units * 60_000).div_ceil(10 * span_ms(limit, length_s) * u128::from(usual_cost(limit)));
    let most = u128::from(MAX_RATE) * 60;
    let mut why = format!("route {}: 1.5 times `{}` ({})", route.name, limit.name, limit.algorithm);
    if per_minute > most {
        let _ = write!(why, "; it would take more than {MAX_RATE} requests/s, which is what is sent");
    }
    let per_minute = per_minute.min(most).max(1);
    let consumers = if counts_consumers { keys } else { spread(snapshot, route, per_minute, length_s) };
    let lasting = matches!(limit.algorithm, Algorithm::Concurrency { .. });
    let each = limit.key.parts().iter().any(|part| matches!(part, KeyPart::ClientAddress { .. }));
    Want { snapshot, route, why, per_minute, consumers, shared: counts_consumers, each, lasting }
}

/// How many consumers keep a load below half of every limit of its route that counts consumers.
fn spread(snapshot: &Snapshot, route: &Route, per_minute: u128, length_s: u64) -> u64 {
    let limits = route.limits.iter().filter_map(|name| snapshot.limits.get(name));
    let apart = limits.filter(|limit| limit.key.parts().iter().any(KeyPart::is_consumer));
    let needed = apart.map(|limit| {
        let units = per_minute * u128::from(usual_cost(limit)) * span_ms(limit, length_s);
        (2 * units).div_ceil(60_000 * u128::from(limit.quota().max(1)))
    });
    u64::try_from(needed.max().unwrap_or(1)).unwrap_or(u64::MAX).clamp(1, MAX_USERS)
}

/// The time over which a limit is asked for its quota: its window, or the scenario where that is shorter.
fn span_ms(limit: &Limit, length_s: u64) -> u128 {
    limit.window().as_millis().min(u128::from(length_s) * 1000).max(1)
}

const fn usual_cost(limit: &Limit) -> u32 {
    match limit.cost {
        Cost::Fixed(units) => units,
        Cost::Header { default, .. } => default,
    }
}

impl Want<'_> {
    /// One load as a line of YAML.
    fn line(&self, region: &RegionId, per_minute: u128, consumers: u128) -> String {
        let rate =
            if per_minute.is_multiple_of(60) { format!("{}/s", per_minute / 60) } else { format!("{per_minute}/min") };
        let mut line = format!(
            "{{ region: {region}, rate: {rate}, host: {}, path: {}",
            quoted(&self.host()),
            quoted(&path(self.route))
        );
        if let Some(method) = self.route.methods.first().filter(|method| *method != "GET") {
            let _ = write!(line, ", method: {method}");
        }
        let name = if self.shared { "rehearsal".to_owned() } else { format!("rehearsal-{region}") };
        let (headers, claims) = self.carried(&name);
        if self.route.auth.is_some() {
            let _ = write!(line, ", user: {name}");
        }
        if consumers > 1 {
            let _ = write!(line, ", users: {consumers}");
        }
        for (key, fields) in [("headers", headers), ("claims", claims)] {
            if !fields.is_empty() {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{}: {}", quoted(name), quoted(value))).collect();
                let _ = write!(line, ", {key}: {{ {} }}", fields.join(", "));
            }
        }
        if self.lasting {
            line.push_str(", lasting: 1s");
        }
        line + ", arrivals: poisson }"
    }

    /// Header fields and claims that the keys and costs of the route's limits read.
    fn carried(&self, name: &str) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let (mut headers, mut claims) = (BTreeMap::new(), BTreeMap::new());
        let value = if self.consumers > 1 { format!("{name}-{{n}}") } else { name.to_owned() };
        for limit in self.route.limits.iter().filter_map(|limit| self.snapshot.limits.get(limit)) {
            for part in limit.key.parts() {
                match part {
                    KeyPart::Header(header) => drop(headers.insert(header.clone(), value.clone())),
                    KeyPart::Claim(claim) => drop(claims.insert(claim.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        (headers, claims)
    }

    /// A host that the route takes; of a zone where it takes any, so that DNS has a part in it.
    fn host(&self) -> String {
        match &self.route.host {
            HostMatch::Exact(host) => host.clone(),
            HostMatch::Wildcard(suffix) => format!("www.{suffix}"),
            HostMatch::Any => {
                let first = self.snapshot.zones.values().next();
                let named = first.and_then(|zone| zone.records.keys().next().map(|label| (label, &zone.name)));
                named.map_or("any.example.test".to_owned(), |(label, zone)| {
                    if label == "@" { zone.clone() } else { format!("{label}.{zone}") }
                })
            }
        }
    }
}

/// A path that the route takes.
fn path(route: &Route) -> String {
    match &route.path {
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Prefix(prefix) => format!("{}/rehearsal", prefix.trim_end_matches('/')),
    }
}

/// A text as a double-quoted scalar of YAML, which takes the escapes of JSON.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}
