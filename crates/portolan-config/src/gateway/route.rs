//! `routes`: which request goes where. Decides whether two routes take the same requests; their order by precedence is
//! for the route table.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use portolan_model::Name;

use super::{Scope, dns::host_name, listener::BODY_BOUNDS};
use crate::{
    HostMatch, Limit, PathMatch, Route,
    decode::{self, Fields, Shape, dangling, duration, entry_name, items, size, string, text},
    fault::{Report, Span},
    suggest,
    tree::{Entry, Node},
};

/// A route's keys.
pub(crate) const ROUTE: Shape =
    Shape { what: "a route", keys: &["match", "auth", "scopes", "limits", "service", "timeout", "max_body"] };

/// The keys of a match.
pub(crate) const MATCH: Shape = Shape { what: "a match", keys: &["host", "path", "methods"] };

/// Methods that a route can name (RFC 9110 §9, RFC 5789). CONNECT and TRACE are never forwarded.
pub(crate) const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];

pub(super) fn decode(
    entries: &[Entry],
    scope: &Scope<'_>,
    limits: &BTreeMap<Name, Arc<Limit>>,
    report: &mut Report<'_>,
) -> BTreeMap<Name, Arc<Route>> {
    let mut routes = BTreeMap::new();
    let mut taken: BTreeMap<_, Vec<(Arc<Route>, Span)>> = BTreeMap::new();
    for entry in entries {
        let Some((route, match_at)) = route(entry, scope, limits, report) else { continue };
        let route = Arc::new(route);
        let rivals = taken.entry((route.host.clone(), route.path.clone())).or_default();
        if let Some((rival, rival_at)) = rivals.iter().find(|(rival, _)| same_methods(&rival.methods, &route.methods)) {
            let (host, path) = (&route.host, &route.path);
            let (name, rival) = (&route.name, &rival.name);
            let line = rival_at.line;
            let message =
                format!("route `{name}` takes the requests of `{rival}` (line {line}): host {host}, path {path}");
            report.fault(match_at, message, "let their host, path or methods differ".to_owned());
        }
        rivals.push((Arc::clone(&route), match_at));
        routes.insert(route.name.clone(), route);
    }
    routes
}

/// Whether two routes with one host and path leave it open which of them takes a request. One with methods goes before
/// one without, so those two do not.
fn same_methods(a: &[String], b: &[String]) -> bool {
    if a.is_empty() || b.is_empty() { a.is_empty() && b.is_empty() } else { a.iter().any(|method| b.contains(method)) }
}

fn route(
    entry: &Entry,
    scope: &Scope<'_>,
    limits: &BTreeMap<Name, Arc<Limit>>,
    report: &mut Report<'_>,
) -> Option<(Route, Span)> {
    let name_of = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &ROUTE, report)?;
    let match_node = fields.require("match", "{ path: /orders/** }", report);
    let matched = match_node.and_then(|node| match_of(node, report));
    let refer = |node: &Node, what: &str, known: &BTreeSet<&str>, report: &mut Report<'_>| {
        let word = text(node, report)?;
        if !known.contains(&**word) {
            dangling(node, what, known.iter().copied(), report);
            return None;
        }
        Name::new(word).ok()
    };
    let service = fields
        .require("service", scope.services.first().copied().unwrap_or("NAME"), report)
        .and_then(|node| refer(node, "service", &scope.services, report));
    let auth_node = fields.get("auth");
    let auth = auth_node.and_then(|node| refer(node, "entry of `auth`", &scope.auth, report));
    let mut limit_names = Vec::new();
    for item in fields.get("limits").and_then(|node| items(node, MAX_LIMITS_PER_ROUTE, report)).unwrap_or_default() {
        let Some(limit) = refer(item, "limit", &scope.limits, report) else { continue };
        if limit_names.contains(&limit) {
            let message = format!("{} stands twice", item.quoted());
            report.fault(item.at, message, "keep one of them".to_owned());
        }
        let reads_tokens = limits.get(&limit).is_some_and(|limit| limit.needs_token());
        if reads_tokens && auth_node.is_none() {
            let message = format!("limit `{limit}` reads a token, but route `{}` asks for none", entry.key);
            report.fault(item.at, message, "add `auth` to the route, or a limit with `key: client`".to_owned());
        }
        limit_names.push(limit);
    }
    let scopes = fields.optional("scopes", Vec::new(), report, |n, r| decode::list(n, MAX_SCOPES, r, string));
    if let Some(node) = fields.get("scopes").filter(|_| auth_node.is_none()) {
        let message = format!("`scopes` of route `{}` have no token to be in", entry.key);
        report.fault(node.named_at, message, "add `auth` to the route".to_owned());
    }
    let timeout = fields.optional("timeout", DEFAULT_TIMEOUT, report, |n, r| duration(n, MIN_TIMEOUT..=MAX_TIMEOUT, r));
    let max_body = fields.optional("max_body", None, report, |n, r| size(n, BODY_BOUNDS, r).map(Some));
    let (host, path, methods) = matched?;
    let name = name_of?;
    let route =
        Route { name, host, path, methods, auth, scopes, limits: limit_names, service: service?, timeout, max_body };
    Some((route, match_node?.named_at))
}

fn match_of(node: &Node, report: &mut Report<'_>) -> Option<(HostMatch, PathMatch, Vec<String>)> {
    let fields = Fields::open(node, &MATCH, report)?;
    let host = fields.optional("host", Some(HostMatch::Any), report, |n, r| Some(host(n, r)));
    let path = fields.require("path", "/orders/**", report).and_then(|node| path(node, report));
    let methods = fields.optional("methods", Vec::new(), report, |n, r| decode::list(n, METHODS.len(), r, method));
    Some((host?, path?, methods))
}

fn host(node: &Node, report: &mut Report<'_>) -> Option<HostMatch> {
    let word = text(node, report)?;
    if &**word == "*" {
        return Some(HostMatch::Any);
    }
    if let Some((name, _)) = word.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) {
        let message = format!("{} has a port; routes match the host alone", node.quoted());
        report.fault(node.at, message, format!("write `{name}`"));
        return None;
    }
    if word.strip_prefix("*.").unwrap_or(word).contains('*') {
        let message = format!("{} has a `*` that is not its first label", node.quoted());
        report.fault(node.at, message, "write for example *.example.test".to_owned());
        return None;
    }
    match word.strip_prefix("*.") {
        Some(suffix) => host_name(suffix, node.at, report).map(HostMatch::Wildcard),
        None => host_name(word, node.at, report).map(HostMatch::Exact),
    }
}

fn path(node: &Node, report: &mut Report<'_>) -> Option<PathMatch> {
    let path = string(node, report)?;
    let mut fault = |why: &str, remedy: String| {
        report.fault(node.at, format!("{} is not a path: {why}", node.quoted()), remedy);
        None
    };
    if !path.starts_with('/') {
        let mended = path.strip_suffix("/*").map_or(path.clone(), |stem| format!("{stem}/**"));
        return fault("it does not start with `/`", format!("write `/{mended}`"));
    }
    if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic() || "?#\\\"<>{}|^`".contains(*c)) {
        return fault(&format!("`{bad}` does not stand in one"), "percent-encode it, or remove it".to_owned());
    }
    let prefix = path.strip_suffix("/**");
    let fixed = prefix.unwrap_or(&path);
    if fixed.contains('*') {
        return fault("`**` stands alone at the end", "write for example /orders/**".to_owned());
    }
    let dots = |segment: &str| segment == "." || segment == "..";
    if fixed.contains("//") || fixed.split('/').any(dots) {
        return fault(
            "requests are matched after `//`, `.` and `..` are resolved",
            "write the resolved path".to_owned(),
        );
    }
    Some(match prefix {
        Some("") => PathMatch::Prefix("/".to_owned()),
        Some(prefix) => PathMatch::Prefix(prefix.to_owned()),
        None => PathMatch::Exact(path),
    })
}

fn method(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let word = text(node, report)?;
    if METHODS.contains(&&**word) {
        return Some(word.to_string());
    }
    let message = format!("{} is not a method that is routed", node.quoted());
    report.fault(node.at, message, suggest::remedy(word, METHODS));
    None
}

/// Waits longer than this belong to another protocol.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// Charged together, all or none.
const MAX_LIMITS_PER_ROUTE: usize = 8;

/// Scopes that a route can ask for.
const MAX_SCOPES: usize = 32;
