//! The law of the route table: it finds what a walk over all routes finds.

use std::sync::Arc;

use portolan_config::{HostMatch, PathMatch, Route, Snapshot};
use portolan_model::Name;
use portolan_routing::{Found, Reason, RequestHead, RouteTable};
use proptest::prelude::*;

/// The winner by the words of the specification, and all methods allowed at the host and path.
fn reference(snapshot: &Snapshot, head: &RequestHead<'_>) -> (Option<Name>, Vec<String>) {
    let fits = |route: &&Arc<Route>| host_fits(&route.host, head.host) && path_fits(&route.path, head.path);
    let mut allow: Vec<String> = snapshot.routes.values().filter(fits).flat_map(|r| r.methods.clone()).collect();
    allow.sort();
    allow.dedup();
    let takes = |route: &&Arc<Route>| route.methods.is_empty() || route.methods.contains(&head.method.to_owned());
    let mut matching: Vec<&Arc<Route>> = snapshot.routes.values().filter(fits).filter(takes).collect();
    matching.sort_by_key(|route| {
        let host = match &route.host {
            HostMatch::Exact(_) => (0, 0),
            HostMatch::Wildcard(suffix) => (1, -(suffix.len() as i64)),
            HostMatch::Any => (2, 0),
        };
        let path = match &route.path {
            PathMatch::Exact(_) => (0, 0),
            PathMatch::Prefix(prefix) => (1, -(prefix.len() as i64)),
        };
        (host, path, route.methods.is_empty(), route.name.clone())
    });
    (matching.first().map(|route| route.name.clone()), allow)
}

fn host_fits(pattern: &HostMatch, host: &str) -> bool {
    match pattern {
        HostMatch::Exact(exact) => exact == host,
        HostMatch::Wildcard(suffix) => host.ends_with(&format!(".{suffix}")),
        HostMatch::Any => true,
    }
}

fn path_fits(pattern: &PathMatch, path: &str) -> bool {
    match pattern {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) if prefix == "/" => path.starts_with('/'),
        PathMatch::Prefix(prefix) => path == prefix || path.starts_with(&format!("{prefix}/")),
    }
}

fn host() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["test", "a.test", "b.a.test", "ba.test", "c.b.a.test", "x"]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["", "a", "b", "ab"]);
    prop::collection::vec(segment, 1..4).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn prefix() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec!["a", "b", "ab"]);
    prop::collection::vec(segment, 0..3).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn route() -> impl Strategy<Value = Route> {
    let host =
        prop_oneof![host().prop_map(HostMatch::Exact), host().prop_map(HostMatch::Wildcard), Just(HostMatch::Any)];
    let path = prop_oneof![path().prop_map(PathMatch::Exact), prefix().prop_map(PathMatch::Prefix)];
    let methods = prop::collection::vec(prop::sample::select(vec!["GET", "POST", "PUT"]), 0..3);
    (host, path, methods).prop_map(|(host, path, methods)| Route {
        name: Name::new("unnamed").expect("a name"),
        host,
        path,
        methods: methods.into_iter().map(str::to_owned).collect(),
        auth: None,
        scopes: Vec::new(),
        limits: Vec::new(),
        service: Name::new("any").expect("a name"),
        timeout: std::time::Duration::from_secs(15),
        max_body: None,
    })
}

fn snapshot(routes: Vec<Route>) -> Snapshot {
    let named = routes.into_iter().enumerate().map(|(index, route)| {
        let name = Name::new(&format!("r{index:02}")).expect("a name");
        (name.clone(), Arc::new(Route { name, ..route }))
    });
    Snapshot { routes: named.collect(), ..Snapshot::default() }
}

proptest! {
    #[test]
    fn the_table_finds_what_a_walk_over_all_routes_finds(
        routes in prop::collection::vec(route(), 0..24),
        host in host(),
        path in path(),
        method in prop::sample::select(vec!["GET", "POST", "DELETE"]),
    ) {
        let snapshot = snapshot(routes);
        let table = RouteTable::compile(&snapshot);
        let head = RequestHead { host: &host, path: &path, method };
        let (winner, allow) = reference(&snapshot, &head);
        match table.find(&head) {
            Found::Route(route) => prop_assert_eq!(Some(&route.name), winner.as_ref()),
            Found::NotFound => prop_assert!(winner.is_none() && allow.is_empty()),
            Found::MethodNotAllowed { allow: found } => {
                prop_assert!(winner.is_none());
                prop_assert_eq!(found, allow);
            }
        }
        let candidates = table.explain(&head);
        prop_assert_eq!(candidates.len(), snapshot.routes.len());
        let won: Vec<_> = candidates.iter().filter(|c| c.lost_because.is_none()).map(|c| &c.route).collect();
        prop_assert_eq!(won, winner.iter().collect::<Vec<_>>());
        for candidate in &candidates {
            let route = &snapshot.routes[&candidate.route];
            let fits = host_fits(&route.host, &host);
            prop_assert_eq!(candidate.lost_because == Some(Reason::Host), !fits);
        }
    }
}
