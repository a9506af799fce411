//! A gateway document without faults, as the data path sees it.

mod common;

use std::{fmt::Write, time::Duration};

use common::{bundle, file, regions};
use portolan_config::{
    HostMatch, KeyPart, Listener, OnPartition, PathMatch, Snapshot, SourceFile, attachments, region_names,
};
use portolan_model::Name;

fn parse(text: &str) -> Snapshot {
    Snapshot::parse(&bundle(text), &regions()).unwrap_or_else(|faults| panic!("{}", faults.render()))
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

#[test]
fn the_sample_gateway_is_read_whole() {
    let snapshot = parse(&file("../../gateway.yaml").text);
    let service = &snapshot.services[&name("orders")];
    let mut endpoints = String::new();
    for (region, addresses) in &service.endpoints {
        write!(endpoints, "{region}:").expect("a string takes everything");
        addresses.iter().for_each(|address| write!(endpoints, " {address}").expect("a string takes everything"));
        endpoints.push('\n');
    }
    assert_eq!(
        endpoints,
        "ap-southeast: http://127.10.1.1:9101 http://127.10.1.1:9102\n\
         eu-west: http://127.10.2.1:9101 http://127.10.2.1:9102\n\
         us-east: http://127.10.3.1:9101 http://127.10.3.1:9102\n"
    );
    let auth = &snapshot.auth[&name("customers")];
    assert_eq!((auth.issuer.as_str(), auth.user_claim.as_str()), ("https://issuer.example.test", "sub"));
    assert_eq!(auth.leeway, Duration::from_secs(60));
    let total = &snapshot.limits[&name("orders-total")];
    assert_eq!((total.key.parts(), total.on_partition), (&[KeyPart::Service][..], OnPartition::Static));
    let route = &snapshot.routes[&name("orders")];
    assert_eq!(route.host, HostMatch::Exact("api.example.test".to_owned()));
    assert_eq!(route.path, PathMatch::Prefix("/orders".to_owned()));
    assert_eq!((route.auth.clone(), route.limits.len()), (Some(name("customers")), 2));
    assert_eq!(snapshot.routes[&name("public")].auth, None);
    assert_eq!(snapshot.zones["example.test"].records["api"].regions, regions().ids());
    assert_eq!(snapshot.listener, Listener::default());
}

#[test]
fn the_files_that_a_document_names_are_known_before_it_is_checked() {
    let document = |text: &str| SourceFile { path: "gateway.yaml".to_owned(), text: text.to_owned() };
    assert_eq!(attachments(&file("../../gateway.yaml")), [".portolan/jwks.json"]);
    assert!(attachments(&document("auth: [")).is_empty());
    assert!(attachments(&document("auth: { a: { jwt: { jwks_file: [x] } }, b: 3 }")).is_empty());
    let two = "auth: { a: { jwt: { jwks_file: b.json } }, c: { jwt: { jwks_file: a.json } }, d: { jwt: { jwks_file: a.json } } }";
    assert_eq!(attachments(&document(two)), ["a.json", "b.json"]);
}

#[test]
fn the_regions_that_a_document_names_are_known_before_it_is_checked() {
    let check = |text: &str, expected: &[&str]| {
        let document = SourceFile { path: "gateway.yaml".to_owned(), text: text.to_owned() };
        assert!(region_names(&document).iter().eq(expected), "{text}");
    };
    check(&file("../../gateway.yaml").text, &["ap-southeast", "eu-west", "us-east"]);
    check("services: { a: { endpoints: { b: [], c: 3 } }, d: 4 }", &["b", "c"]);
    check("dns: { z: { api: { regions: all }, www: { regions: [e, [f]] } }, y: 5 }", &["e"]);
    check("services: [a", &[]);
}

#[test]
fn hosts_and_paths_are_read_in_all_their_forms() {
    let check = |text: &str, expected: &str| {
        let document = format!(
            "version: 1\nservices: {{ s: {{ endpoints: {{ us-east: [\"http://[::1]:80\", http://a.b] }} }} }}\n\
             routes: {{ r: {{ match: {text}, service: s }} }}\n"
        );
        let route = parse(&document).routes[&name("r")].clone();
        assert_eq!(format!("{} {} {:?}", route.host, route.path, route.methods), expected);
    };
    check("{ path: / }", "* / []");
    check("{ path: /** }", "* /** []");
    check("{ host: \"*\", path: /a/**, methods: [GET] }", "* /a/** [\"GET\"]");
    check("{ host: \"*.example.test\", path: /a/b }", "*.example.test /a/b []");
}

#[test]
fn two_routes_may_share_a_path_when_their_methods_tell_them_apart() {
    let routes = |methods: [&str; 2]| {
        let route = |index: usize| format!("  r{index}: {{ match: {{ path: /a{} }}, service: s }}\n", methods[index]);
        let services = "services: { s: { endpoints: { us-east: [http://a] } } }";
        let document = format!("version: 1\n{services}\nroutes:\n{}{}", route(0), route(1));
        Snapshot::parse(&bundle(&document), &regions()).map(|_| ()).map_err(|faults| faults.to_string())
    };
    assert_eq!(routes([", methods: [GET]", ", methods: [POST]"]), Ok(()));
    assert_eq!(routes([", methods: [GET]", ""]), Ok(()));
    let twice = Err("gateway.yaml:5:9: route `r1` takes the requests of `r0` (line 4): host *, path /a; \
                     let their host, path or methods differ"
        .to_owned());
    assert_eq!(routes(["", ""]), twice);
    assert_eq!(routes([", methods: [GET]", ", methods: [POST, GET]"]), twice);
}

#[test]
fn the_seventeenth_limit_that_is_split_by_demand_is_a_fault_at_its_name() {
    let parse = |count: usize| {
        let limits: String =
            (1..=count).map(|n| format!("  l{n}: {{ key: user, rate: 9/s, shares: demand }}\n")).collect();
        let document = format!("version: 1\nlimits:\n{limits}  other: {{ key: user, rate: 9/s }}\n");
        Snapshot::parse(&bundle(&document), &regions()).map(|_| ()).map_err(|faults| faults.to_string())
    };
    assert_eq!(parse(16), Ok(()));
    let fault = parse(18).expect_err("two too many");
    let expected = "gateway.yaml:19:3: with `l17` more than 16 limits have `shares: demand`; leave";
    assert!(fault.starts_with(expected) && fault.lines().count() == 1, "{fault}");
}

#[test]
fn a_key_set_must_hold_keys() {
    let check = |jwks: &str, expected: &str| {
        let mut bundle = bundle(&file("../../gateway.yaml").text);
        bundle.attachments.insert(".portolan/jwks.json".to_owned(), jwks.to_owned());
        let faults = Snapshot::parse(&bundle, &regions()).expect_err("no keys").to_string();
        assert!(faults.contains(expected), "{faults}");
    };
    check("{", "is not JSON");
    check("{}", "has no `keys` list");
    check(r#"{"keys":[]}"#, "has an empty `keys` list");
    check(r#"{"keys":[{"kid":"1"}]}"#, "has a key without `kty`");
}

#[test]
fn a_difference_names_what_came_went_and_changed() {
    let old = "
version: 1
services: { s: { endpoints: { us-east: [http://a:1] } }, t: { endpoints: { us-east: [http://t:1] } } }
limits: { total: { key: global, rate: 5/s } }
routes: { r: { match: { path: /r }, service: s, limits: [total] }, x: { match: { path: /x }, service: s } }
dns: { example.test: { api: { regions: all } } }
";
    let new = "
version: 1
listener: { max_headers: 50 }
services: { s: { endpoints: { us-east: [http://a:1, http://a:2] } }, t: { endpoints: { us-east: [http://t:1] } } }
limits: { total: { rate: 9/s, key: global }, more: { key: client, rate: 1/min } }
routes: { r: { match: { path: /r/**, methods: [GET] }, service: s } }
dns: { example.test: { api: { regions: [us-east] } } }
";
    let lines = portolan_config::diff(&parse(old), &parse(new));
    let expected = [
        "~ listener: max_headers 100 -> 50",
        "~ service s: us-east [http://a:1] -> [http://a:1, http://a:2]",
        "+ limit more: key client, rate 1/min, on_partition static, shares equal",
        "~ limit total: rate 5/s -> 9/s",
        "~ route r: limits was [total], path /r -> /r/**, methods [GET]",
        "- route x",
        "~ dns api.example.test: regions [ap-southeast, eu-west, us-east] -> [us-east]",
    ];
    assert_eq!(lines, expected);
    assert!(portolan_config::diff(&parse(old), &parse(&format!("# same\n{old}"))).is_empty());
}

#[test]
fn bytes_that_are_not_utf_8_are_placed() {
    let faults = SourceFile::from_bytes("g.yaml", b"version: 1\nname: caf\xe9\n".to_vec()).expect_err("not UTF-8");
    assert_eq!(faults.to_string(), "g.yaml:2:10: the byte 0xE9 is not UTF-8; save the file as UTF-8");
    assert!(SourceFile::from_bytes("g.yaml", "version: 1 # é".into()).is_ok());
}
