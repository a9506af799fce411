//! Which route a request gets, by example.

use std::{sync::Arc, time::Duration};

use portolan_config::{HostMatch, PathMatch, Route, Snapshot};
use portolan_model::Name;
use portolan_routing::{Found, RequestHead, RouteTable};

/// Reads routes as `name host path methods` and requests as `method host path`, and compares what each request finds.
fn check(routes: &[&str], requests: &[(&str, &str)]) {
    let table = table(routes);
    for (request, expected) in requests {
        let found = match table.find(&head(request)) {
            Found::Route(route) => route.name.to_string(),
            Found::NotFound => "not found".to_owned(),
            Found::MethodNotAllowed { allow } => format!("allow {}", allow.join(",")),
        };
        assert_eq!(found, *expected, "{request}");
    }
}

fn table(routes: &[&str]) -> RouteTable {
    let routes = routes.iter().map(|line| Arc::new(route(line))).map(|route| (route.name.clone(), route)).collect();
    RouteTable::compile(&Snapshot { routes, ..Snapshot::default() })
}

fn head(request: &str) -> RequestHead<'_> {
    let mut words = request.split(' ');
    let mut word = || words.next().expect("a request has three words");
    RequestHead { method: word(), host: word(), path: word() }
}

fn route(line: &str) -> Route {
    let mut words = line.split(' ');
    let mut word = || words.next().expect("a route has four words");
    let (name, host, path, methods) = (word(), word(), word(), word());
    Route {
        name: Name::new(name).expect("a name"),
        host: match host.strip_prefix("*.") {
            Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
            None if host == "*" => HostMatch::Any,
            None => HostMatch::Exact(host.to_owned()),
        },
        path: match path.strip_suffix("/**") {
            Some("") => PathMatch::Prefix("/".to_owned()),
            Some(prefix) => PathMatch::Prefix(prefix.to_owned()),
            None => PathMatch::Exact(path.to_owned()),
        },
        methods: methods.split(',').filter(|method| *method != "any").map(str::to_owned).collect(),
        auth: None,
        scopes: Vec::new(),
        limits: Vec::new(),
        service: Name::new("any").expect("a name"),
        timeout: Duration::from_secs(15),
        max_body: None,
    }
}

#[test]
fn a_prefix_takes_whole_segments() {
    check(
        &["orders api.test /orders/** any"],
        &[
            ("GET api.test /orders", "orders"),
            ("GET api.test /orders/", "orders"),
            ("GET api.test /orders/7", "orders"),
            ("GET api.test /ordersx", "not found"),
            ("GET api.test /", "not found"),
            ("GET other.test /orders", "not found"),
            ("OPTIONS api.test *", "not found"),
        ],
    );
}

#[test]
fn an_exact_path_beats_the_longest_prefix_and_that_a_shorter_one() {
    check(
        &["all * /** any", "orders * /orders/** any", "deep * /orders/open/** any", "one * /orders/open any"],
        &[
            ("GET x /orders/open", "one"),
            ("GET x /orders/open/", "deep"),
            ("GET x /orders/7/open", "orders"),
            ("GET x /", "all"),
            ("GET x /a/b/c/d", "all"),
        ],
    );
}

#[test]
fn an_exact_host_beats_the_longest_wildcard_and_that_any_host() {
    check(
        &["exact a.b.test /** any", "near *.b.test /** any", "far *.test /** any", "any * /** any"],
        &[
            ("GET a.b.test /", "exact"),
            ("GET c.b.test /", "near"),
            ("GET d.c.b.test /", "near"),
            ("GET b.test /", "far"),
            ("GET test /", "any"),
            ("GET xtest /", "any"),
        ],
    );
}

#[test]
fn a_narrow_route_does_not_hide_a_broad_one() {
    check(
        &["narrow a.test /orders any", "broad *.test /** any"],
        &[("GET a.test /orders", "narrow"), ("GET a.test /users", "broad")],
    );
}

#[test]
fn a_named_method_beats_any_and_a_refused_one_lists_what_is_taken() {
    check(
        &["read * /orders GET", "write * /orders POST,PUT", "rest * /orders any", "del * /items DELETE,GET"],
        &[
            ("GET x /orders", "read"),
            ("PUT x /orders", "write"),
            ("DELETE x /orders", "rest"),
            ("POST x /items", "allow DELETE,GET"),
            ("get x /items", "allow DELETE,GET"),
        ],
    );
}

#[test]
fn explain_says_why_each_route_lost() {
    let table = table(&[
        "any-host * /orders/** any",
        "any-method api.test /orders/** any",
        "elsewhere other.test /orders/** any",
        "post api.test /orders/** POST",
        "shallow api.test /** any",
        "users api.test /users any",
        "winner api.test /orders/** GET",
    ]);
    let lines: Vec<String> = table
        .explain(&head("GET api.test /orders/7"))
        .into_iter()
        .map(|c| format!("{}: {}", c.route, c.lost_because.map_or("it serves".to_owned(), |r| r.to_string())))
        .collect();
    let expected = [
        "winner: it serves",
        "any-method: `winner` names this method, it takes any",
        "shallow: the path of `winner` is more specific",
        "any-host: the host of `winner` is more specific",
        "post: it does not take this method",
        "users: its path does not match",
        "elsewhere: its host does not match",
    ];
    assert_eq!(lines, expected);
}
