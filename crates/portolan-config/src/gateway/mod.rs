//! The gateway document: decodes each section, then holds the sections against each other. Never resolves a name outside
//! the document and the region map.

mod auth;
mod dns;
mod limit;
mod listener;
mod route;
mod service;

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::RegionId;

use crate::{
    Bundle, Faults, RegionMap, Snapshot, SourceFile,
    decode::{Fields, Shape, named},
    fault::{Report, Span},
    suggest, syntax,
    tree::{Entry, Node, Value, shorten},
};

#[cfg(test)]
pub(crate) use {
    auth::{AUTH, JWT},
    dns::RECORD,
    limit::{ALGORITHMS, BUDGETS, COST, KEY_PART, KEY_WORDS, LENDER, LIMIT, PLANS, POLICIES, REFUND_WORD, SHARE_WORDS},
    listener::LISTENER,
    route::{MATCH, METHODS, ROUTE},
    service::{HEALTH, SERVICE},
};

/// The document's own keys.
pub(crate) const GATEWAY: Shape = Shape {
    what: "a gateway document",
    keys: &["version", "listener", "services", "auth", "lenders", "limits", "routes", "dns"],
};

/// What names may refer to: everything that is defined, be it well or badly, so that one fault does not cause another.
struct Scope<'a> {
    regions: &'a RegionMap,
    attachments: &'a BTreeMap<String, String>,
    services: BTreeSet<&'a str>,
    auth: BTreeSet<&'a str>,
    lenders: BTreeSet<&'a str>,
    limits: BTreeSet<&'a str>,
}

impl Scope<'_> {
    /// A region named by a key.
    fn region(&self, key: &str, at: Span, report: &mut Report<'_>) -> Option<RegionId> {
        let found = self.regions.ids().iter().find(|id| id.as_str() == key);
        if found.is_none() {
            let known = self.regions.ids().iter().map(RegionId::as_str);
            report.fault(at, format!("`{}` names no region", shorten(key)), suggest::remedy(key, known));
        }
        found.cloned()
    }
}

/// Reads a bundle into a snapshot, or returns all faults.
pub(crate) fn parse(bundle: &Bundle, regions: &RegionMap) -> Result<Snapshot, Faults> {
    let mut report = Report::new(&bundle.document);
    let snapshot = syntax::parse(&mut report).and_then(|root| document(&root, bundle, regions, &mut report));
    report.finish(snapshot)
}

/// The files that a document names.
pub(crate) fn attachments(document: &SourceFile) -> Vec<String> {
    let Some(root) = syntax::parse(&mut Report::new(document)) else { return Vec::new() };
    let files = within(&root, "auth").iter().filter_map(|entry| {
        match &value_of(value_of(&entry.node, "jwt")?, "jwks_file")?.value {
            Value::Scalar(name) => Some(name.to_string()),
            _ => None,
        }
    });
    files.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The regions that services, limits and DNS records of a document name.
pub(crate) fn region_names(document: &SourceFile) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Some(root) = syntax::parse(&mut Report::new(document)) else { return names };
    for endpoints in within(&root, "services").iter().filter_map(|service| value_of(&service.node, "endpoints")) {
        if let Value::Mapping(entries) = &endpoints.value {
            names.extend(entries.iter().map(|entry| entry.key.to_string()));
        }
    }
    for shares in within(&root, "limits").iter().filter_map(|limit| value_of(&limit.node, "shares")) {
        if let Value::Mapping(entries) = &shares.value {
            names.extend(entries.iter().map(|entry| entry.key.to_string()));
        }
    }
    let records = within(&root, "dns").iter().flat_map(|zone| match &zone.node.value {
        Value::Mapping(records) => &**records,
        _ => &[],
    });
    for regions in records.filter_map(|record| value_of(&record.node, "regions")) {
        if let Value::Sequence(items) = &regions.value {
            let words = items.iter().filter_map(|item| match &item.value {
                Value::Scalar(word) => Some(word.to_string()),
                _ => None,
            });
            names.extend(words);
        }
    }
    names
}

/// The entries of the section `key`; none when there is no such mapping.
fn within<'a>(root: &'a Node, key: &str) -> &'a [Entry] {
    match value_of(root, key).map(|section| &section.value) {
        Some(Value::Mapping(entries)) => entries,
        _ => &[],
    }
}

fn value_of<'a>(node: &'a Node, key: &str) -> Option<&'a Node> {
    match &node.value {
        Value::Mapping(entries) => entries.iter().find(|entry| &*entry.key == key).map(|entry| &entry.node),
        _ => None,
    }
}

fn document(root: &Node, bundle: &Bundle, regions: &RegionMap, report: &mut Report<'_>) -> Option<Snapshot> {
    let fields = Fields::open(root, &GATEWAY, report)?;
    fields.check_version(report);
    let mut section = |key: &str, example: &str, max| match fields.get(key) {
        Some(node) => named(node, example, max, report),
        None => &[],
    };
    let services = section("services", "services: { NAME: { endpoints: … } }", MAX_SERVICES);
    let auth = section("auth", "auth: { NAME: { jwt: … } }", MAX_AUTH);
    let lenders = section("lenders", "lenders: { NAME: { redis: redis://127.0.0.1:6379/0 } }", MAX_LENDERS);
    let limits = section("limits", "limits: { NAME: { key: user, rate: 600/min } }", MAX_LIMITS);
    let routes = section("routes", "routes: { NAME: { match: …, service: … } }", MAX_ROUTES);
    let zones = section("dns", "dns: { ZONE: { NAME: { regions: all } } }", MAX_ZONES);
    let scope = Scope {
        regions,
        attachments: &bundle.attachments,
        services: services.iter().map(|entry| &*entry.key).collect(),
        auth: auth.iter().map(|entry| &*entry.key).collect(),
        lenders: lenders.iter().map(|entry| &*entry.key).collect(),
        limits: limits.iter().map(|entry| &*entry.key).collect(),
    };
    let services = service::decode(services, &scope, report);
    let auth = auth::decode(auth, &scope, report);
    let lenders = limit::lenders(lenders, report);
    let limits = limit::decode(limits, &scope, report);
    let routes = route::decode(routes, &scope, &limits, report);
    let zones = dns::decode(zones, &scope, report);
    let listener = fields.optional("listener", Default::default(), report, listener::decode);
    Some(Snapshot { services, auth, lenders, limits, routes, zones, listener })
}

/// Services of a document.
const MAX_SERVICES: usize = 2000;

/// Issuers of tokens.
const MAX_AUTH: usize = 100;

/// Lenders of a document.
const MAX_LENDERS: usize = 16;

/// Limits of a document.
const MAX_LIMITS: usize = 1000;

/// Routes of a document.
const MAX_ROUTES: usize = 10_000;

/// DNS zones of a document.
const MAX_ZONES: usize = 100;
