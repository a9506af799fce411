//! Which endpoint an attempt gets, and how health follows probes and requests.

use std::{sync::Arc, time::Duration};

use portolan_config::{EndpointAddress, HealthCheck, Service, Snapshot};
use portolan_model::{Name, RegionId, Timestamp};
use portolan_routing::{EndpointId, Health, HealthBoard, Outcome, Pick, PickReason, ProbeOutcome};
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn region(text: &str) -> RegionId {
    RegionId::new(text).expect("a region")
}

fn order(regions: &[&str]) -> Vec<RegionId> {
    regions.iter().map(|text| region(text)).collect()
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::ZERO + Duration::from_secs(1000 + seconds)
}

/// One service with the given endpoints; a region may be named again and again, one endpoint for each time.
fn snapshot(endpoints: &[&str], path: Option<&str>) -> Snapshot {
    let mut service = Service {
        name: name("orders"),
        endpoints: Default::default(),
        connect_timeout: Duration::from_secs(1),
        health: HealthCheck { path: path.map(str::to_owned), ..HealthCheck::default() },
    };
    for (index, place) in endpoints.iter().enumerate() {
        let address = EndpointAddress { host: "127.0.0.1".to_owned(), port: 9100 + index as u16 };
        service.endpoints.entry(region(place)).or_default().push(address);
    }
    Snapshot { services: [(name("orders"), Arc::new(service))].into(), ..Snapshot::default() }
}

fn board(endpoints: &[&str]) -> HealthBoard {
    HealthBoard::build(&snapshot(endpoints, None), None)
}

fn ids(board: &HealthBoard, place: &str) -> Vec<EndpointId> {
    board.endpoints(at(0)).filter(|e| e.region.as_str() == place).map(|e| e.id).collect()
}

fn pick<'a>(board: &'a HealthBoard, regions: &[&str], tried: &[EndpointId], second: u64) -> Option<Pick<'a>> {
    board.pick(&name("orders"), &order(regions), tried, at(second), 7 << 32 | 3)
}

fn fail(board: &HealthBoard, id: EndpointId, outcome: Outcome, times: usize) {
    (0..times).for_each(|_| board.record(id, outcome, at(0)));
}

fn health(board: &HealthBoard, id: EndpointId, second: u64) -> Health {
    board.endpoint(id, at(second)).expect("the endpoint is listed").health
}

#[test]
fn the_own_region_comes_first_and_the_nearest_next() {
    let board = board(&["far", "near", "own"]);
    let regions = ["own", "near", "far"];
    let check = |tried: &[EndpointId], place, why| {
        let pick = pick(&board, &regions, tried, 0).expect("an endpoint is left");
        assert_eq!((pick.region.as_str(), pick.why), (place, why));
    };
    let (own, near) = (ids(&board, "own")[0], ids(&board, "near")[0]);
    check(&[], "own", PickReason::OwnRegion);
    check(&[own], "near", PickReason::NearestUsable);
    check(&[own, near], "far", PickReason::NearestUsable);
    fail(&board, own, Outcome::ConnectFailed, 1);
    check(&[], "near", PickReason::NearestUsable);
}

#[test]
fn a_request_that_failed_twice_in_a_region_goes_to_the_next() {
    let board = board(&["own", "own", "own", "near"]);
    let own = ids(&board, "own");
    assert_eq!(pick(&board, &["own", "near"], &own[..1], 0).map(|p| p.region.as_str()), Some("own"));
    assert_eq!(pick(&board, &["own", "near"], &own[..2], 0).map(|p| p.region.as_str()), Some("near"));
    let tried = [own[0], own[1], ids(&board, "near")[0]];
    assert_eq!(pick(&board, &["own", "near"], &tried, 0).map(|p| p.endpoint), Some(own[2]));
}

#[test]
fn with_nothing_usable_the_one_that_failed_longest_ago_is_tried() {
    let board = board(&["own", "near"]);
    let (own, near) = (ids(&board, "own")[0], ids(&board, "near")[0]);
    board.record(near, Outcome::ConnectFailed, at(0));
    board.record(own, Outcome::ConnectFailed, at(1));
    let pick = pick(&board, &["own", "near"], &[], 2).expect("something is tried");
    assert_eq!((pick.endpoint, pick.why), (near, PickReason::Panic));
    assert_eq!(board.pick(&name("orders"), &order(&["own"]), &[own, near], at(2), 0), None);
}

#[test]
fn of_two_endpoints_the_less_loaded_is_picked() {
    let board = board(&["own", "own"]);
    let ids = ids(&board, "own");
    let busy = board.begin(ids[0]);
    for choice in [0, 1, 1 << 32, u64::MAX] {
        let pick = board.pick(&name("orders"), &order(&["own"]), &[], at(0), choice);
        assert_eq!(pick.map(|p| p.endpoint), Some(ids[1]));
    }
    drop(busy);
    assert!(board.endpoints(at(0)).all(|endpoint| endpoint.in_flight == 0));
}

#[test]
fn faults_in_a_row_eject_once() {
    let check = |outcome, times, seconds: Option<u64>| {
        let board = board(&["own"]);
        let id = ids(&board, "own")[0];
        fail(&board, id, outcome, times);
        let expected = seconds.map_or(Health::Unknown, |s| Health::Ejected { until: at(s) });
        assert_eq!(health(&board, id, 0), expected, "{outcome:?} x {times}");
    };
    check(Outcome::ConnectFailed, 1, Some(5));
    check(Outcome::ConnectFailed, 3, Some(30));
    check(Outcome::Reset, 2, None);
    check(Outcome::Reset, 3, Some(30));
    check(Outcome::Status5xx, 4, None);
    check(Outcome::Status5xx, 5, Some(30));
    check(Outcome::Status5xx, 60, Some(30));
    check(Outcome::Success, 9, None);
}

#[test]
fn each_ejection_in_a_row_lasts_longer_up_to_five_minutes() {
    let board = board(&["own"]);
    let id = ids(&board, "own")[0];
    let mut second = 0;
    for length in [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300] {
        (0..5).for_each(|_| board.record(id, Outcome::Status5xx, at(second)));
        assert_eq!(health(&board, id, second), Health::Ejected { until: at(second + length) });
        second += length;
    }
    second += 300;
    (0..5).for_each(|_| board.record(id, Outcome::Status5xx, at(second)));
    assert_eq!(health(&board, id, second), Health::Ejected { until: at(second + 30) });
}

#[test]
fn a_success_between_faults_starts_the_count_anew() {
    let board = board(&["own"]);
    let id = ids(&board, "own")[0];
    fail(&board, id, Outcome::Status5xx, 4);
    board.record(id, Outcome::Success, at(0));
    fail(&board, id, Outcome::Status5xx, 4);
    assert_eq!(health(&board, id, 0), Health::Unknown);
}

#[test]
fn probes_take_an_endpoint_out_and_back_and_end_an_ejection() {
    let board = board(&["own"]);
    let id = ids(&board, "own")[0];
    let probe = |outcome| board.handle_probe(id, outcome, at(0));
    assert_eq!(probe(ProbeOutcome::Success), Some(Health::Healthy));
    assert_eq!([ProbeOutcome::Failure; 3].map(probe), [None, None, Some(Health::Unhealthy)]);
    assert_eq!([ProbeOutcome::Success; 2].map(probe), [None, Some(Health::Healthy)]);
    fail(&board, id, Outcome::ConnectFailed, 3);
    assert_eq!(probe(ProbeOutcome::Success), Some(Health::Healthy));
}

#[test]
fn a_tcp_probe_does_not_clear_an_endpoint_that_answers_with_errors() {
    let check = |path, expected| {
        let board = HealthBoard::build(&snapshot(&["own"], path), None);
        let id = ids(&board, "own")[0];
        fail(&board, id, Outcome::Status5xx, 5);
        board.handle_probe(id, ProbeOutcome::Success, at(0));
        assert_eq!(health(&board, id, 0), expected);
    };
    check(None, Health::Ejected { until: at(30) });
    check(Some("/healthz"), Health::Healthy);
}

#[test]
fn health_and_numbers_outlive_a_revision_and_numbers_are_not_used_again() {
    let first = board(&["a", "b"]);
    let (a, b) = (ids(&first, "a")[0], ids(&first, "b")[0]);
    fail(&first, a, Outcome::ConnectFailed, 3);
    let second = HealthBoard::build(&snapshot(&["a"], None), Some(&first));
    assert_eq!(health(&second, a, 0), Health::Ejected { until: at(30) });
    assert!(second.endpoint(b, at(0)).is_none());
    let third = HealthBoard::build(&snapshot(&["a", "b"], None), Some(&second));
    assert_ne!(ids(&third, "b"), [b]);
}

proptest! {
    #[test]
    fn a_pick_is_untried_and_usable_while_any_endpoint_is(
        failed in prop::collection::vec(any::<bool>(), 9),
        tried in prop::collection::vec(any::<bool>(), 9),
        choice in any::<u64>(),
    ) {
        let board = board(&["a", "a", "a", "b", "b", "b", "c", "c", "c"]);
        let all: Vec<EndpointId> = board.endpoints(at(0)).map(|endpoint| endpoint.id).collect();
        let marked = |marks: &[bool]| -> Vec<EndpointId> {
            all.iter().zip(marks).filter(|(_, mark)| **mark).map(|(id, _)| *id).collect()
        };
        let (failed, tried) = (marked(&failed), marked(&tried));
        failed.iter().for_each(|id| board.record(*id, Outcome::ConnectFailed, at(0)));
        let pick = board.pick(&name("orders"), &order(&["b", "a", "c"]), &tried, at(1), choice);
        let usable = all.iter().any(|id| !failed.contains(id) && !tried.contains(id));
        prop_assert_eq!(pick.is_none(), tried.len() == all.len());
        if let Some(pick) = pick {
            prop_assert!(!tried.contains(&pick.endpoint));
            prop_assert_eq!(failed.contains(&pick.endpoint), !usable);
            prop_assert_eq!(pick.why == PickReason::Panic, !usable);
        }
    }
}
