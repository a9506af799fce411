//! What a query is answered with, by example and by law.

use std::{collections::BTreeSet, net::IpAddr};

use portolan_config::{Bundle, RegionMap, Snapshot, SourceFile};
use portolan_geodns::{Answer, ClientSubnet, Query, Rcode, RegionState, RegionStates, SoaRole, Table, qtype};
use portolan_model::RegionId;
use proptest::prelude::*;

const REGIONS: [(&str, &str); 5] = [
    (
        "asia.yaml",
        "{ version: 1, region: asia, title: Singapore, coordinates: { latitude: 1.35, longitude: 103.82 }, addresses: [192.0.2.1, 192.0.2.11, 2001:db8::1] }",
    ),
    (
        "europe.yaml",
        "{ version: 1, region: europe, title: Dublin, coordinates: { latitude: 53.35, longitude: -6.26 }, addresses: [192.0.2.2] }",
    ),
    (
        "us.yaml",
        "{ version: 1, region: us, title: Ashburn, coordinates: { latitude: 39.04, longitude: -77.49 }, addresses: [192.0.2.3] }",
    ),
    (
        "rtt.yaml",
        "{ version: 1, rtt: [{ between: [asia, europe], rtt: 170ms }, { between: [asia, us], rtt: 215ms }, { between: [europe, us], rtt: 75ms }] }",
    ),
    (
        "networks.yaml",
        "{ version: 1, networks: [
        { prefix: 10.0.0.0/8, near: { latitude: 48.86, longitude: 2.35 } },
        { prefix: 10.1.0.0/16, region: asia },
        { prefix: 10.1.2.0/26, near: { latitude: 40.71, longitude: -74.01 } },
        { prefix: 10.3.0.0/30, region: us },
        { prefix: \"2001:db8:1::/48\", near: { latitude: -6.21, longitude: 106.85 } }] }",
    ),
];

const GATEWAY: &str = "
version: 1
services: { any: { endpoints: { us: [http://127.0.0.1:9101] } } }
routes: { any: { match: { host: api.example.test, path: /** }, service: any } }
dns:
  example.test:
    '@': { regions: all, ttl: 20s }
    api: { regions: all, ttl: 30s }
    pair: { regions: [europe, us], ttl: 30s }
    solo: { regions: [us], ttl: 30s }
    deep.er: { regions: [us], ttl: 30s }
  example.net:
    api: { regions: [us], ttl: 30s }
";

fn table() -> Table {
    let file = |(path, text): &(&str, &str)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() };
    let regions =
        RegionMap::parse(&REGIONS.each_ref().map(file)).unwrap_or_else(|faults| panic!("{}", faults.render()));
    let document = SourceFile { path: "gateway.yaml".to_owned(), text: GATEWAY.to_owned() };
    let bundle = Bundle { document, attachments: Default::default() };
    let snapshot = Snapshot::parse(&bundle, &regions).unwrap_or_else(|faults| panic!("{}", faults.render()));
    Table::compile(&snapshot, &regions)
}

fn region(text: &str) -> RegionId {
    RegionId::new(text).expect("a region")
}

/// Reads `asia:down us:draining` as states.
fn states(text: &str) -> RegionStates {
    let state = |word: &str| match word {
        "down" => RegionState::Down,
        "draining" => RegionState::Draining,
        "gone" => RegionState::DrainingDown,
        _ => RegionState::Serving,
    };
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once(':'));
    pairs.map(|(name, word)| (region(name), state(word))).collect()
}

/// Asks for `name`, for the resolver or, with a prefix, for the client subnet `client`.
fn ask(name: &str, qtype: u16, client: &str, now: &str) -> Answer {
    let (address, prefix) = match client.split_once('/') {
        Some((address, prefix)) => (address, prefix.parse().expect("a prefix")),
        None => (client, 128),
    };
    let address = address.parse().expect("an address");
    let client = ClientSubnet { address, prefix, from_ecs: client.contains('/') };
    table().answer(&Query { name, qtype, client }, &states(now))
}

fn named(answer: &Answer) -> Option<&str> {
    answer.region.as_ref().map(RegionId::as_str)
}

#[test]
fn the_longest_prefix_decides_where_a_client_is() {
    let check = |client, expected| {
        assert_eq!(named(&ask("api.example.test", qtype::A, client, "")), Some(expected), "{client}")
    };
    check("10.9.9.9", "europe");
    check("10.1.9.9", "asia");
    check("10.1.2.9", "us");
    check("2001:db8:1::7", "asia");
    check("::ffff:10.1.2.9", "us");
    check("172.16.0.1", "asia");
}

#[test]
fn a_region_that_cannot_serve_is_passed_over_for_the_next_nearest() {
    let check =
        |now, expected| assert_eq!(named(&ask("api.example.test", qtype::A, "10.9.9.9", now)), Some(expected), "{now}");
    check("", "europe");
    check("europe:down", "us");
    check("europe:draining", "us");
    check("europe:down us:draining", "asia");
    check("europe:down us:down asia:draining", "asia");
    check("europe:draining us:draining asia:draining", "europe");
    check("europe:gone us:down asia:draining", "asia");
}

#[test]
fn with_every_region_down_all_that_are_not_drained_are_named() {
    let addresses = |now| {
        ask("api.example.test", qtype::A, "10.9.9.9", now).addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(addresses("asia:down europe:down us:down"), ["192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.11"]);
    assert_eq!(addresses("asia:down europe:gone us:down"), ["192.0.2.3", "192.0.2.1", "192.0.2.11"]);
    assert_eq!(addresses("asia:gone europe:gone us:gone"), ["192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.11"]);
}

#[test]
fn the_scope_is_the_prefix_at_which_the_answer_could_differ() {
    let check = |name, client, scope| assert_eq!(ask(name, qtype::A, client, "").ecs_scope, scope, "{name} {client}");
    check("api.example.test", "172.16.0.0/24", Some(1));
    check("api.example.test", "10.9.9.0/24", Some(13));
    check("api.example.test", "10.1.9.0/24", Some(21));
    // Finer networks exist than the client told; the scope says so.
    check("api.example.test", "10.1.2.0/24", Some(26));
    check("api.example.test", "10.0.0.0/8", Some(30));
    // What holds for one part of a /24 is not to be cached for the rest of it.
    check("api.example.test", "10.1.2.9/32", Some(26));
    check("api.example.test", "10.1.2.200/32", Some(25));
    check("api.example.test", "2001:db8:1:5::/64", Some(48));
    check("api.example.test", "0.0.0.0/0", Some(0));
    check("solo.example.test", "10.1.9.0/24", Some(0));
    check("none.example.test", "10.1.9.0/24", Some(0));
    check("api.example.test", "10.1.9.9", None);
}

#[test]
fn a_subnet_of_length_zero_is_answered_for_the_resolver() {
    let answer = ask("api.example.test", qtype::A, "10.1.2.9/0", "");
    assert_eq!((named(&answer), answer.ecs_scope), (Some("us"), Some(0)));
}

#[test]
fn names_and_types_get_what_the_standards_ask_for() {
    let check = |name, qtype, rcode, addresses, soa: Option<SoaRole>| {
        let answer = ask(name, qtype, "10.1.9.9", "");
        let found = (answer.rcode, answer.addresses.len(), answer.soa.map(|soa| soa.role));
        assert_eq!(found, (rcode, addresses, soa), "{name} {qtype}");
        assert_eq!(answer.authoritative, rcode != Rcode::Refused);
    };
    let (ok, no, refused) = (Rcode::NoError, Rcode::NxDomain, Rcode::Refused);
    let denial = Some(SoaRole::Denial);
    check("api.example.test", qtype::A, ok, 2, None);
    check("api.example.test", qtype::AAAA, ok, 1, None);
    check("api.example.test", qtype::ANY, ok, 3, None);
    check("api.example.test", 16, ok, 0, denial);
    check("solo.example.test", qtype::AAAA, ok, 0, denial);
    check("example.test", qtype::A, ok, 2, None);
    check("example.test", qtype::SOA, ok, 0, Some(SoaRole::Answer));
    check("example.net", qtype::ANY, ok, 0, Some(SoaRole::Answer));
    check("example.test", qtype::ANY, ok, 3, None);
    check("api.example.test", qtype::SOA, ok, 0, denial);
    check("er.example.test", qtype::A, ok, 0, denial);
    check("deep.er.example.test", qtype::A, ok, 1, None);
    check("none.example.test", qtype::A, no, 0, denial);
    check("x.api.example.test", qtype::A, no, 0, denial);
    check("ns.example.test", qtype::A, ok, 0, denial);
    check("us.ns.example.test", qtype::A, ok, 1, None);
    check("api.example.net", qtype::A, ok, 1, None);
    check("pair.example.net", qtype::A, no, 0, denial);
    check("example.org", qtype::A, refused, 0, None);
    check("test", qtype::A, refused, 0, None);
    check("", qtype::NS, refused, 0, None);
}

#[test]
fn the_apex_names_a_server_in_every_region() {
    let answer = ask("example.test", qtype::NS, "10.1.9.9", "us:down");
    assert_eq!(answer.ns, ["asia.ns.example.test", "europe.ns.example.test", "us.ns.example.test"]);
    assert_eq!(answer.soa, None);
    let soa = ask("none.example.test", qtype::A, "10.1.9.9", "").soa.expect("a denial carries the SOA");
    assert_eq!((soa.zone.as_str(), soa.mname.as_str()), ("example.test", "asia.ns.example.test"));
}

#[test]
fn the_nearest_region_answers_even_without_an_address_of_the_family() {
    let answer = ask("api.example.test", qtype::AAAA, "10.9.9.9", "");
    assert_eq!((answer.rcode, answer.addresses.len()), (Rcode::NoError, 0));
    assert_eq!(named(&answer), Some("europe"));
}

fn any_states() -> impl Strategy<Value = RegionStates> {
    let state = prop::sample::select(vec![
        RegionState::Serving,
        RegionState::Draining,
        RegionState::Down,
        RegionState::DrainingDown,
    ]);
    prop::collection::vec(state, 3).prop_map(|states| {
        ["asia", "europe", "us"].into_iter().zip(states).map(|(name, state)| (region(name), state)).collect()
    })
}

proptest! {
    #[test]
    fn health_never_empties_an_answer_nor_names_what_is_worse_than_another(
        states in any_states(),
        address in any::<[u8; 4]>(),
        prefix in 0..=32u8,
        name in prop::sample::select(vec!["api.example.test", "pair.example.test", "solo.example.test"]),
    ) {
        let table = table();
        let client = ClientSubnet { address: IpAddr::from(address), prefix, from_ecs: true };
        let answer = table.answer(&Query { name, qtype: qtype::A, client }, &states);
        prop_assert!(!answer.addresses.is_empty());
        let listed: &[&str] = match name {
            "api.example.test" => &["asia", "europe", "us"],
            "pair.example.test" => &["europe", "us"],
            _ => &["us"],
        };
        let of = |name: &str| states.get(&region(name));
        let best = [RegionState::Serving, RegionState::Draining, RegionState::Down, RegionState::DrainingDown];
        let best = best.into_iter().find(|state| listed.iter().any(|name| of(name) == *state));
        let home = answer.region.expect("an answer with addresses names its region");
        prop_assert!(listed.contains(&home.as_str()));
        prop_assert_eq!(Some(states.get(&home)), best);
    }

    #[test]
    fn addresses_that_share_the_scope_share_the_answer(
        first in any::<[u8; 4]>(),
        flips in any::<u32>(),
        ten in any::<bool>(),
        prefix in prop_oneof![Just(24u8), Just(32)],
    ) {
        let table = table();
        let untold = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        let ask = |bits: u32| {
            let client = ClientSubnet { address: IpAddr::from(bits.to_be_bytes()), prefix, from_ecs: true };
            table.answer(&Query { name: "api.example.test", qtype: qtype::A, client }, &RegionStates::default())
        };
        let bits = u32::from_be_bytes(first) & !untold;
        let bits = if ten { bits & 0x0003_ffff | 0x0a00_0000 } else { bits };
        let answer = ask(bits);
        let scope = u32::from(answer.ecs_scope.expect("the query had a subnet").min(prefix));
        let below = u32::MAX.checked_shr(scope).unwrap_or(0) & !untold;
        let other = ask(bits ^ (flips & below));
        let addresses = |answer: &Answer| answer.addresses.iter().copied().collect::<BTreeSet<IpAddr>>();
        prop_assert_eq!(addresses(&answer), addresses(&other));
    }
}
