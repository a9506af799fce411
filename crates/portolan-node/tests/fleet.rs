//! Three composed nodes in virtual time: what a fleet agrees on, loses and finds again.

mod support;

use std::net::IpAddr;

use portolan_config::{Applied, Change};
use portolan_geodns::{ClientSubnet, Query, qtype};
use portolan_limits::{Admission, Recovery};
use portolan_model::{MemberId, NodeName, RegionId, WallTime};
use portolan_node::{Event, Message, RECOVERY_HOLD, Refused, SILENT_AFTER, Subject};
use portolan_routing::{Found, RequestHead};
use proptest::prelude::*;
use support::{Fleet, GATEWAY, MILLISECOND, REGIONS, SECOND, apply, drain, join, node, region, restore};

const SUBJECT: Subject<'_> = Subject { user: None, client: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), attributes: &() };

/// The region whose address `viewer` gives for the name, to a client in the network of the fleet itself.
fn dns_answer(fleet: &Fleet, viewer: &str) -> Option<RegionId> {
    let view = fleet.nodes[&node(viewer)].view();
    let address = "198.51.100.1".parse().expect("an address");
    let client = ClientSubnet { address, prefix: 24, from_ecs: true };
    view.dns.answer(&Query { name: "api.example.test", qtype: qtype::A, client }, &view.states).region
}

/// Sends one request through the view of `name` and returns whether it was admitted.
fn admit(fleet: &Fleet, name: &str) -> Admission {
    let view = fleet.nodes[&node(name)].view();
    let head = RequestHead { host: "api.example.test", path: "/orders/1", method: "GET" };
    let Found::Route(route) = view.route(&head) else { panic!("the route exists") };
    view.admit(&route, &SUBJECT, fleet.now())
}

/// What `name` knows of the spend of each region under the limit.
fn spent(fleet: &Fleet, name: &str) -> Vec<u64> {
    let status = fleet.nodes[&node(name)].status(fleet.now());
    status.limits[0].spent.iter().map(|(_, spent)| *spent).collect()
}

#[test]
fn a_fleet_forms_gets_ready_and_names_every_region() {
    for seed in 0..10 {
        let fleet = Fleet::settled(seed);
        for name in REGIONS {
            let status = fleet.nodes[&node(name)].status(fleet.now());
            assert!(status.ready && !status.draining, "{name} with seed {seed}");
            assert!(status.peers.values().all(|peer| peer.member), "{name} with seed {seed}");
            assert!(status.peers.values().all(|peer| peer.facts.as_ref().is_some_and(|facts| facts.ready)));
        }
    }
}

#[test]
fn a_view_stays_as_long_as_nothing_changes() {
    let mut fleet = Fleet::settled(1);
    let version = fleet.node("us").view_version();
    fleet.run(60 * SECOND);
    assert_eq!(fleet.node("us").view_version(), version);
}

#[test]
fn a_killed_region_is_down_at_the_survivors_after_five_seconds_and_not_before() {
    for seed in 0..10 {
        let mut fleet = Fleet::settled(seed);
        fleet.kill("ap");
        fleet.run(SILENT_AFTER - 500 * MILLISECOND);
        assert_eq!(
            (fleet.serving("eu"), fleet.serving("us")),
            (REGIONS.map(String::from).to_vec(), REGIONS.map(String::from).to_vec())
        );
        fleet.run(SECOND);
        assert_eq!(
            (fleet.serving("eu"), fleet.serving("us")),
            (vec!["eu".into(), "us".into()], vec!["eu".into(), "us".into()])
        );
        assert!(fleet.says("eu", &Event::RegionDown { region: region("ap") }));
        assert_ne!(dns_answer(&fleet, "eu"), Some(region("ap")));
    }
}

#[test]
fn an_isolated_region_names_only_itself_and_the_others_name_only_each_other() {
    let mut fleet = Fleet::settled(1);
    fleet.cut_off.insert(node("us"));
    fleet.run(SILENT_AFTER + SECOND);
    assert_eq!(fleet.serving("us"), ["us"]);
    assert_eq!(dns_answer(&fleet, "us"), Some(region("us")));
    assert_eq!(fleet.serving("eu"), ["ap", "eu"]);
    assert_eq!(fleet.serving("ap"), ["ap", "eu"]);
}

#[test]
fn a_region_that_some_region_hears_stays_in_service_everywhere() {
    let mut fleet = Fleet::settled(1);
    fleet.cut_links.insert((node("us"), node("ap")));
    fleet.run(30 * SECOND);
    for viewer in REGIONS {
        assert_eq!(fleet.serving(viewer), REGIONS, "seen from {viewer}");
    }
}

#[test]
fn after_a_cut_heals_every_region_is_named_again_by_all() {
    for seed in 0..10 {
        let mut fleet = Fleet::settled(seed);
        fleet.cut_off.insert(node("us"));
        fleet.run(20 * SECOND);
        fleet.cut_off.clear();
        fleet.run(RECOVERY_HOLD + SECOND);
        for viewer in REGIONS {
            assert_eq!(fleet.serving(viewer), REGIONS, "seen from {viewer} with seed {seed}");
        }
    }
}

#[test]
fn a_node_that_restarts_does_not_revive_a_region_that_the_others_know_to_be_gone() {
    let mut fleet = Fleet::settled(1);
    fleet.kill("ap");
    fleet.run(SILENT_AFTER + 2 * SECOND);
    fleet.kill("us");
    fleet.start("us", Recovery::Lost);
    fleet.transcript.clear();
    fleet.run(4 * SECOND);
    assert!(!fleet.says("eu", &Event::RegionUp { region: region("ap") }));
    assert!(!fleet.serving("eu").contains(&"ap".into()));
    assert!(!fleet.serving("us").contains(&"ap".into()), "the new node takes the word of those who listened");
}

#[test]
fn a_region_that_started_again_is_named_again() {
    let mut fleet = Fleet::settled(1);
    fleet.kill("ap");
    fleet.run(8 * SECOND);
    fleet.start("ap", Recovery::Lost);
    fleet.run(RECOVERY_HOLD + 2 * SECOND);
    assert_eq!(fleet.serving("eu"), REGIONS);
}

#[test]
fn a_drained_region_is_not_named_and_knows_it_until_it_is_restored() {
    let mut fleet = Fleet::settled(1);
    let version = fleet.node("eu").view_version();
    fleet.order(&drain("eu"));
    assert!(fleet.node("eu").view_version() > version);
    assert!(fleet.node("eu").view().draining && !fleet.node("us").view().draining);
    for viewer in REGIONS {
        assert_eq!(fleet.serving(viewer), ["ap", "us"]);
        assert_ne!(dns_answer(&fleet, viewer), Some(region("eu")));
    }
    fleet.order(&restore("eu"));
    assert!(!fleet.node("eu").view().draining);
    assert_eq!(fleet.serving("us"), REGIONS);
}

#[test]
fn regions_are_asked_for_endpoints_own_first_then_serving_ones_by_distance_then_the_rest() {
    let mut fleet = Fleet::settled(1);
    let order = |fleet: &mut Fleet| fleet.node("us").view().region_order.clone();
    assert_eq!(order(&mut fleet), ["us", "eu", "ap"].map(region));
    fleet.order(&drain("eu"));
    assert_eq!(order(&mut fleet), ["us", "ap", "eu"].map(region));
    fleet.order(&drain("us"));
    assert_eq!(order(&mut fleet), ["us", "ap", "eu"].map(region));
}

#[test]
fn what_one_region_spends_becomes_known_to_the_others() {
    let mut fleet = Fleet::settled(1);
    // More than half of a share: below that a region is silent.
    for _ in 0..20 {
        for (name, count) in [("us", 10), ("eu", 8)] {
            assert!((0..count).all(|_| matches!(admit(&fleet, name), Admission::Allow(_))));
        }
        fleet.run(50 * MILLISECOND);
    }
    fleet.run(12 * SECOND);
    for name in REGIONS {
        assert_eq!(spent(&fleet, name), [0, 160, 200], "as known in {name}");
    }
}

#[test]
fn nothing_is_admitted_before_the_limits_have_started() {
    let mut fleet = Fleet::settled(1);
    fleet.kill("us");
    fleet.start("us", Recovery::Lost);
    assert!(!matches!(admit(&fleet, "us"), Admission::Allow(_)));
    assert!(!fleet.node("us").view().ready);
}

#[test]
fn a_node_that_hears_of_several_rosters_at_once_keeps_what_each_of_them_gives_it() {
    // Nodes that join before they have started: nobody there can say what its past is.
    let joins = [2, 3].map(|number| {
        let node = NodeName::new(&format!("eu-{number}")).expect("a name");
        Change::Join { node, region: region("eu"), member: MemberId(10 + number) }.at(WallTime::default())
    });
    let mut fleet = Fleet::settled(1);
    fleet.order(&apply(&GATEWAY.replace("key: service", "key: client")));
    fleet.run(6 * SECOND);
    fleet.order_at_once(&joins);
    let view = fleet.nodes[&node("eu")].view();
    let head = RequestHead { host: "api.example.test", path: "/orders/1", method: "GET" };
    let Found::Route(route) = view.route(&head) else { panic!("the route exists") };
    let admits = |client: &u8| {
        let subject = Subject { client: IpAddr::from([10, 0, 0, *client]), ..SUBJECT };
        matches!(view.admit(&route, &subject, fleet.now()), Admission::Allow(_))
    };
    // A third of what it had alone.
    let admitted = (0..90).filter(admits).count();
    assert!((20..40).contains(&admitted), "{admitted}");
}

#[test]
fn a_process_whose_place_another_one_took_spends_nothing_more_and_is_not_ready() {
    let mut fleet = Fleet::settled(1);
    let now = fleet.now();
    fleet.node("us").set_member(MemberId(7), now);
    let before = fleet.node("us").view();
    assert_eq!(fleet.order(&join("us", 7)), Applied::Joined { incarnation: 2 });
    assert!(matches!(admit(&fleet, "us"), Admission::Allow(_)));
    assert_eq!(fleet.order(&join("us", 8)), Applied::Joined { incarnation: 3 });
    let refused = |fleet: &Fleet| !matches!(admit(fleet, "us"), Admission::Allow(_));
    assert!(refused(&fleet) && !fleet.node("us").view().ready && !before.limiter.active());
    assert!(matches!(admit(&fleet, "eu"), Admission::Allow(_)), "nobody else stops");
    fleet.run(10 * SECOND);
    assert!(refused(&fleet), "not even once further marks are durable");
    assert_eq!(fleet.order(&join("us", 7)), Applied::Joined { incarnation: 4 });
    fleet.run(10 * SECOND);
    assert!(refused(&fleet) && !fleet.node("us").view().ready, "what the other spent is unknown");
    assert!(fleet.says("us", &Event::Replaced { by: MemberId(8) }));
}

#[test]
fn a_node_that_comes_without_its_log_spends_although_the_intent_still_names_its_earlier_member() {
    let mut fleet = Fleet::settled(1);
    fleet.order(&join("us", 7));
    fleet.kill("us");
    fleet.start("us", Recovery::FirstStart);
    let now = fleet.now();
    fleet.node("us").set_member(MemberId(8), now);
    fleet.run(100 * MILLISECOND);
    assert!(matches!(admit(&fleet, "us"), Admission::Allow(_)));
    fleet.order(&join("us", 8));
    fleet.run(100 * MILLISECOND);
    assert!(matches!(admit(&fleet, "us"), Admission::Allow(_)));
}

#[test]
fn an_endpoint_that_fails_its_probes_is_left_out_and_told_about() {
    let mut fleet = Fleet::settled(1);
    let view = fleet.node("us").view();
    let service = "orders".parse().expect("a name");
    let own = view.pick(&service, &[], fleet.now, 0).expect("there are endpoints");
    assert_eq!(own.region, &region("us"));
    let of_us = view.board.endpoints(fleet.now).filter(|endpoint| *endpoint.region == region("us"));
    fleet.ill = of_us.map(|endpoint| endpoint.id).collect();
    fleet.run(10 * SECOND);
    let next = view.pick(&service, &[], fleet.now, 0).expect("there are endpoints");
    assert_eq!(next.region, &region("eu"), "the view of before sees the health of now");
    let status = fleet.nodes[&node("eu")].status(fleet.now());
    let facts = status.peers[&node("us")].facts.as_ref().expect("published");
    assert_eq!((facts.endpoints_usable, facts.endpoints), (1, 3));
}

#[test]
fn a_follower_alone_may_not_stand_and_two_nodes_without_a_leader_may() {
    let mut fleet = Fleet::settled(1);
    let report = |fleet: &mut Fleet, live: [bool; 3], seconds: u32| {
        for _ in 0..seconds * 5 {
            REGIONS.iter().zip(live).for_each(|(name, live)| fleet.raft_status(name, live));
            fleet.run(200 * MILLISECOND);
        }
    };
    let eligible = |fleet: &Fleet| REGIONS.map(|name| fleet.nodes[&node(name)].status(fleet.now()).eligible);
    report(&mut fleet, [true, true, true], 2);
    assert_eq!(eligible(&fleet), [false, false, false]);
    fleet.cut_off.insert(node("ap"));
    report(&mut fleet, [false, true, true], 10);
    assert_eq!(eligible(&fleet), [false, false, false], "cut off alone");
    fleet.cut_off.clear();
    report(&mut fleet, [false, true, true], 3);
    assert_eq!(eligible(&fleet), [false, false, false], "back, and the leader is well");
    fleet.cut_off.insert(node("us"));
    report(&mut fleet, [false, false, true], 2);
    assert_eq!(eligible(&fleet), [true, true, false], "the leader is gone");
    report(&mut fleet, [true, true, true], 2);
    assert_eq!(eligible(&fleet), [false, false, false], "a leader was elected");
    assert!(
        fleet.says("eu", &Event::EligibleForElection(true)) && !fleet.says("us", &Event::EligibleForElection(true))
    );
}

#[test]
fn peers_that_fall_silent_and_speak_again_are_told_about() {
    let mut fleet = Fleet::settled(1);
    let stale = Event::PeerStale { node: node("us") };
    let fresh = Event::PeerFresh { node: node("us") };
    fleet.transcript.clear();
    fleet.cut_off.insert(node("us"));
    fleet.run(2 * SECOND);
    assert!(fleet.says("eu", &stale) && !fleet.says("eu", &fresh));
    fleet.cut_off.clear();
    fleet.run(SECOND);
    assert!(fleet.says("eu", &fresh));
}

#[test]
fn every_configured_peer_is_in_the_status_and_a_silent_one_is_called_so() {
    let mut fleet = Fleet::new(1);
    fleet.kill("ap");
    fleet.start("ap", Recovery::FirstStart);
    fleet.cut_off.insert(node("ap"));
    let silent = |fleet: &Fleet, viewer: &str| {
        let status = fleet.nodes[&node(viewer)].status(fleet.now());
        status.peers.values().map(|peer| (peer.region.to_string(), peer.silent)).collect::<Vec<_>>()
    };
    fleet.run(SECOND);
    assert_eq!(silent(&fleet, "ap"), [("eu".into(), false), ("us".into(), false)], "too early to say");
    fleet.run(SECOND);
    assert_eq!(silent(&fleet, "ap"), [("eu".into(), true), ("us".into(), true)]);
    assert_eq!(silent(&fleet, "eu"), [("ap".into(), true), ("us".into(), false)]);
    fleet.cut_off.clear();
    fleet.run(SECOND);
    assert_eq!(silent(&fleet, "eu"), [("ap".into(), false), ("us".into(), false)]);
}

#[test]
fn the_word_of_a_node_restarted_with_its_clock_set_back_counts() {
    let mut fleet = Fleet::settled(1);
    fleet.kill("eu");
    fleet.run(3 * SECOND);
    fleet.clock_behind.insert(node("eu"), 3600 * SECOND);
    fleet.start("eu", Recovery::Lost);
    for _ in 0..10 {
        ["ap", "eu"].iter().for_each(|name| fleet.raft_status(name, false));
        fleet.run(200 * MILLISECOND);
    }
    assert!(fleet.says("ap", &Event::EligibleForElection(true)));
}

#[test]
fn one_seed_gives_one_transcript() {
    let transcript = |seed| {
        let mut fleet = Fleet::new(seed);
        fleet.run(10 * SECOND);
        fleet.cut_off.insert(node("us"));
        fleet.run(10 * SECOND);
        fleet.cut_off.clear();
        fleet.run(10 * SECOND);
        fleet.transcript
    };
    assert_eq!(transcript(7), transcript(7));
    assert_ne!(transcript(7), transcript(8));
}

#[test]
fn a_sender_outside_the_configuration_is_refused() {
    let mut fleet = Fleet::new(1);
    let (now, stranger) = (fleet.now(), node("mars"));
    let message = Message::Gossip(portolan_gossip::Message::Request(Vec::new()));
    let refused = fleet.node("us").handle_message(&stranger, message, now);
    assert_eq!(refused, Err(Refused::UnknownSender { from: stranger }));
    assert_eq!(fleet.node("us").counts().refused, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_from_a_peer_bring_a_node_down(
        seed in 0..4u64, random in proptest::collection::vec(any::<u8>(), 0..200),
        picked in any::<prop::sample::Index>(), at in any::<usize>(), with in 1..=255u8,
    ) {
        let mut fleet = Fleet::new(seed);
        fleet.run(3 * SECOND);
        let now = fleet.now();
        let honest: Vec<Vec<u8>> = fleet.under_way(&node("us"));
        let mut damaged = picked.get(&honest).clone();
        let index = at % damaged.len();
        damaged[index] ^= with;
        let packet = portolan_gossip::Message::Membership(random.clone());
        prop_assert!(fleet.node("us").handle_message(&node("eu"), Message::Gossip(packet), now).is_err());
        for bytes in [random, damaged] {
            if let Ok(message) = portolan_model::codec::decode::<Message>(&bytes) {
                let _ = fleet.node("us").handle_message(&node("eu"), message, now);
            }
        }
        fleet.run(2 * SECOND);
        let now = fleet.now();
        prop_assert!(fleet.node("us").status(now).peers.len() == 2);
    }
}
