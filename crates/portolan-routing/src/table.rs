//! Decides which route a request matches.
//!
//! Precedence follows Gateway API v1 (HTTPRouteRule): exact host, then the longest wildcard suffix, then any host;
//! within a host an exact path, then the longest prefix of whole segments; then a route that names the method before
//! one that takes any. A request for which the best place has no route goes on to the next best, so a narrow route never
//! hides a broad one. Never normalises: host and path are compared as given.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{HostMatch, PathMatch, Route, Snapshot};
use smallvec::SmallVec;

/// The parts of a request that choose its route.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// Host in lower case, without port or trailing dot.
    pub host: &'a str,
    /// Path as it will be forwarded: normalised, without query.
    pub path: &'a str,
    /// Method, case-sensitive (RFC 9110 §9.1).
    pub method: &'a str,
}

/// What a request matched.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The route that serves it.
    Route(Arc<Route>),
    /// No route has this host and path.
    NotFound,
    /// Routes have this host and path, but none takes the method.
    MethodNotAllowed {
        /// The methods they take, sorted, for the `Allow` header (RFC 9110 §10.2.1).
        allow: Vec<String>,
    },
}

/// All routes of one revision, arranged so that the cost of a match follows the length of host and path, not the number
/// of routes: one ordered map of hosts, and below each a tree of path segments.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    exact: BTreeMap<Box<str>, Segment>,
    wildcard: BTreeMap<Box<str>, Segment>,
    any: Option<Segment>,
    pub(crate) routes: Vec<Arc<Route>>,
}

/// One node of the path tree; the root stands for `/`.
#[derive(Clone, Debug, Default)]
struct Segment {
    children: BTreeMap<Box<str>, Segment>,
    exact: Methods,
    prefix: Methods,
}

/// The routes of one place, those that name methods before those that take any, each group in order of name.
type Methods = Vec<Arc<Route>>;

impl RouteTable {
    /// Arranges the routes of a snapshot.
    pub fn compile(snapshot: &Snapshot) -> Self {
        let mut table = Self::default();
        for route in snapshot.routes.values() {
            table.insert(route);
        }
        table
    }

    /// Finds the route of a request. Costs one map lookup per label of the host and per segment of the path; allocates
    /// only to list the allowed methods of a refused one.
    pub fn find(&self, head: &RequestHead<'_>) -> Found {
        let mut allow = Vec::new();
        for tree in self.trees(head.host) {
            if let Some(route) = tree.find(head, &mut allow) {
                return Found::Route(Arc::clone(route));
            }
        }
        if allow.is_empty() {
            return Found::NotFound;
        }
        allow.sort_unstable();
        allow.dedup();
        Found::MethodNotAllowed { allow: allow.into_iter().map(str::to_owned).collect() }
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether no request can match.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn insert(&mut self, route: &Arc<Route>) {
        let tree = match &route.host {
            HostMatch::Exact(host) => self.exact.entry(host.as_str().into()).or_default(),
            HostMatch::Wildcard(suffix) => self.wildcard.entry(suffix.as_str().into()).or_default(),
            HostMatch::Any => self.any.get_or_insert_default(),
        };
        let (path, prefix) = match &route.path {
            PathMatch::Exact(path) => (path.as_str(), false),
            PathMatch::Prefix(path) => (bare_prefix(path), true),
        };
        let place = segments(path).fold(tree, |node, segment| node.children.entry(segment.into()).or_default());
        let methods = if prefix { &mut place.prefix } else { &mut place.exact };
        methods.push(Arc::clone(route));
        methods.sort_by_key(|route| route.methods.is_empty());
        self.routes.push(Arc::clone(route));
    }

    /// The trees that may hold this host, most specific first.
    fn trees<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a Segment> {
        let suffixes = host.match_indices('.').map(move |(dot, _)| &host[dot + 1..]);
        let wildcards = suffixes.filter_map(|suffix| self.wildcard.get(suffix));
        self.exact.get(host).into_iter().chain(wildcards).chain(&self.any)
    }
}

impl Segment {
    /// The route of `head` below this host; the methods of places that matched all but the method go to `allow`.
    fn find<'a>(&'a self, head: &RequestHead<'_>, allow: &mut Vec<&'a str>) -> Option<&'a Arc<Route>> {
        if !head.path.starts_with('/') {
            return None;
        }
        let mut passed: SmallVec<[&Methods; 16]> = SmallVec::new();
        let mut node = Some(self);
        passed.push(&self.prefix);
        for segment in segments(head.path) {
            node = node.and_then(|node| node.children.get(segment));
            match node {
                Some(node) => passed.push(&node.prefix),
                None => break,
            }
        }
        let exact = node.map(|node| &node.exact);
        exact.into_iter().chain(passed.into_iter().rev()).find_map(|methods| choose(methods, head.method, allow))
    }
}

fn choose<'a>(methods: &'a Methods, method: &str, allow: &mut Vec<&'a str>) -> Option<&'a Arc<Route>> {
    let found = methods.iter().find(|route| takes(route, method));
    if found.is_none() {
        allow.extend(methods.iter().flat_map(|route| &route.methods).map(String::as_str));
    }
    found
}

/// Whether a route takes a method; one without a list takes any.
pub(crate) fn takes(route: &Route, method: &str) -> bool {
    route.methods.is_empty() || route.methods.iter().any(|taken| taken == method)
}

/// The path of a prefix without a slash at its end; empty for the root.
pub(crate) fn bare_prefix(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

/// The segments of a path after its leading slash: none for the empty path, one empty segment for `/`.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|path| path.split('/'))
}
