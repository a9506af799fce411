//! What is taken from another region, and what is not.

mod fleet;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use fleet::{Fleet, definition};
use portolan_config::Roster;
use portolan_limits::{
    Heartbeat, Key, LimitId, Limits, LimitsConfig, Loan, Message, Number, OnPartition, Recovery, Rejected, Row, Rows,
    Scope, Seen, SlotSummary,
};
use portolan_model::{ByteSize, NodeName, Now, RegionId, Timestamp, WallTime, codec};

fn fleet() -> Fleet {
    let mut fleet = Fleet::new(3, vec![definition(1, "60/min", OnPartition::Static)], 9);
    fleet.settle();
    fleet
}

fn give(fleet: &mut Fleet, from: &str, message: Message) -> Result<(), Rejected> {
    let now = fleet.now(0);
    let from = RegionId::new(from).expect("a name");
    fleet.regions[0].limits.as_mut().expect("it runs").handle_message(&from, &fleet::node(&from), message, now)
}

fn scope(regions: &[&str]) -> Scope {
    let regions: Vec<RegionId> = regions.iter().map(|region| RegionId::new(region).expect("a name")).collect();
    Scope::of(&fleet::HASH_KEY, &regions)
}

fn current_slot(fleet: &Fleet) -> u64 {
    fleet.now(0).wall.as_unix_millis() / 60_000
}

fn rows(fleet: &Fleet, limit: u32, slot_from_now: i64, count: usize) -> Rows {
    let key = |at: usize| Key::new(&fleet::HASH_KEY, LimitId(limit), &[&at.to_le_bytes()]);
    let slot = current_slot(fleet).saturating_add_signed(slot_from_now);
    let row = Row { consumed: 3, ..Row::default() };
    let (scope, limit) = (scope(&["region-0", "region-1", "region-2"]), LimitId(limit));
    Rows { scope, limit, slot, number: None, rows: (0..count).map(|at| (key(at), row.clone())).collect() }
}

#[test]
fn rows_are_taken_from_another_region_into_its_own_row_only() {
    let mut fleet = fleet();
    let message = Message::Rows(rows(&fleet, 1, 0, 2));
    assert_eq!(give(&mut fleet, "region-1", message), Ok(()));
    let usage = fleet.limits(0).overview(fleet.now(0));
    let spent: Vec<u64> = usage[0].spent.iter().map(|(_, spent)| *spent).collect();
    assert_eq!((usage[0].keys, spent), (2, vec![0, 6, 0]));
}

#[test]
fn rows_that_no_correct_region_sends_change_nothing() {
    let check = |from: &str, message: fn(&Fleet) -> Message, expected| {
        let mut fleet = fleet();
        let message = message(&fleet);
        let before = fleet.limits(0).slot_digests(fleet.now(0));
        assert_eq!(give(&mut fleet, from, message), Err(expected));
        assert_eq!(fleet.limits(0).slot_digests(fleet.now(0)), before);
        assert!(fleet.limits(0).stats().rejected > 0);
    };
    check("region-0", |fleet| Message::Rows(rows(fleet, 1, 0, 1)), Rejected::UnknownSender);
    check("elsewhere", |fleet| Message::Rows(rows(fleet, 1, 0, 1)), Rejected::UnknownSender);
    check("region-1", |fleet| Message::Rows(rows(fleet, 2, 0, 1)), Rejected::UnknownLimit);
    check("region-1", |fleet| Message::Rows(rows(fleet, 1, -2, 1)), Rejected::DeadSlot);
    check("region-1", |fleet| Message::Rows(rows(fleet, 1, 3, 1)), Rejected::DeadSlot);
    check("region-1", |fleet| Message::Rows(rows(fleet, 1, 0, 129)), Rejected::TooLong);
    check("region-1", |fleet| Message::Echo(rows(fleet, 1, 0, 1)), Rejected::ForeignRow);
    let impossible = |fleet: &Fleet| {
        let mut rows = rows(fleet, 1, 0, 1);
        rows.rows[0].1.consumed = u64::MAX;
        Message::Rows(rows)
    };
    check("region-1", impossible, Rejected::ImpossibleRow);
    let digests = |fleet: &Fleet| {
        let summary = SlotSummary { limit: LimitId(1), slot: current_slot(fleet), buckets: [0; 16], restarted: false };
        Message::Digests(vec![summary; 8])
    };
    check("region-1", digests, Rejected::TooLong);
    let heartbeat = |fleet: &Fleet| {
        let scope = scope(&["region-0", "region-1"]);
        Message::Heartbeat(Heartbeat { scope, sent: fleet.now(0).wall, heard: vec![0; 3], seen: Seen::default() })
    };
    check("region-1", heartbeat, Rejected::ForeignScope);
    // Its loans would name other regions than it meant.
    fn foreign(fleet: &Fleet) -> Rows {
        Rows { scope: scope(&["region-0", "region-1"]), ..rows(fleet, 1, 0, 1) }
    }
    check("region-1", |fleet| Message::Rows(foreign(fleet)), Rejected::ForeignScope);
    check("region-1", |fleet| Message::Echo(foreign(fleet)), Rejected::ForeignScope);
}

#[test]
fn a_clock_far_ahead_is_not_adopted() {
    let mut fleet = fleet();
    fleet.regions[1].clock_ms = 3_600_000;
    fleet.run(1000);
    assert_eq!(fleet.limits(0).stats().clocks_ahead, 1);
    let slot = fleet.limits(0).overview(fleet.now(0))[0].slot;
    assert_eq!(slot, current_slot(&fleet));
}

#[test]
fn a_region_whose_clock_runs_fast_drags_nobody_along() {
    let mut fleet = fleet();
    fleet.define(vec![definition(1, "60/s", OnPartition::Static)]);
    for _ in 0..100 {
        // Never more than the tolerance further than the stamp before.
        fleet.regions[1].clock_ms += 300;
        fleet.run(100);
        let physical = fleet.now(0).wall.as_unix_millis();
        let slot = fleet.limits(0).overview(fleet.now(0))[0].slot;
        assert!(slot <= (physical + 500) / 1000, "slot {slot} at {physical} ms");
    }
    assert_eq!(fleet.limits(0).stats().clocks_ahead, 1);
}

#[test]
fn a_region_that_lost_its_rows_in_a_crash_is_told_them_again() {
    let mut fleet = fleet();
    fleet.run(60_000 - fleet.now(0).wall.as_unix_millis() % 60_000);
    for request in 0..30 * 12 {
        fleet.request(0, &[(1, request % 30)]);
        fleet.run(5);
    }
    fleet.run(1500);
    fleet.crash(0);
    fleet.run(100);
    fleet.restart(0);
    fleet.run(4000);
    let digests = |at: usize| fleet.limits(at).slot_digests(fleet.now(at));
    assert!(!digests(0).is_empty());
    assert_eq!((digests(0), digests(1)), (digests(1), digests(2)));
    assert_eq!(fleet.limits(0).overview(fleet.now(0))[0].keys, 30);
}

#[test]
fn a_loan_of_the_slot_after_the_next_waits_for_its_turn() {
    let mut fleet = fleet();
    fleet.define(vec![definition(1, "60/s", OnPartition::Static)]);
    // What is lent here is lent by hand.
    fleet.network.cut = vec![(0, 1), (0, 2), (1, 0), (2, 0)];
    // So late in a slot a sound clock may be in the next one, and lend of the one after.
    fleet.run(2800 - fleet.now(0).wall.as_unix_millis() % 1000);
    let current = fleet.now(0).wall.as_unix_millis() / 1000;
    let key = fleet.limits(0).limiter().key(LimitId(1), &[&7u64.to_le_bytes()]);
    let lend = |fleet: &mut Fleet, slot, amount| {
        let row = Row { lent: [(Loan::Units, 0, amount)].into_iter().collect(), ..Row::default() };
        let scope = scope(&["region-0", "region-1", "region-2"]);
        let rows = Rows { scope, limit: LimitId(1), slot, number: None, rows: vec![(key, row)] };
        let (from, now) = (fleet.regions[1].id.clone(), fleet.now(0));
        let limits = fleet.regions[0].limits.as_mut().expect("it runs");
        limits.handle_message(&from, &fleet::node(&from), Message::Rows(rows), now)
    };
    fleet.request(0, &[(1, 7)]);
    let allowed = |fleet: &Fleet| {
        let usage = fleet.limits(0).explain(LimitId(1), key, fleet.now(0)).expect("it is defined");
        (usage.slot, usage.allowed)
    };
    assert_eq!(lend(&mut fleet, current, 5), Ok(()));
    assert_eq!(allowed(&fleet), (current, 25));
    assert_eq!(lend(&mut fleet, current + 2, 9), Ok(()));
    assert_eq!(allowed(&fleet), (current, 25), "what it borrowed for this slot it may still use");
    fleet.run(600);
    fleet.request(0, &[(1, 7)]);
    assert_eq!(allowed(&fleet), (current + 1, 20));
    fleet.run(700);
    assert_eq!(allowed(&fleet), (current + 2, 29));
}

#[test]
fn a_node_that_lent_is_told_what_came_of_it_whatever_its_rank() {
    let name = |region: &str, number: usize| NodeName::new(&format!("{region}-{number}")).expect("a name");
    let id = |region: &str| RegionId::new(region).expect("a name");
    let roster = |region: &str, numbers: &[usize]| {
        let nodes = numbers.iter().map(|&number| name(region, number)).collect();
        (id(region), Roster { epoch: 1, nodes })
    };
    // The third node of `a` is gone, so ranks and numbers differ from there on.
    let config = LimitsConfig {
        node: name("a", 4),
        region: id("a"),
        neighbours: [1, 2, 5, 6].map(|number| name("a", number)).to_vec(),
        rosters: [roster("a", &[1, 2, 4, 5, 6]), roster("b", &[1, 2, 3, 4, 5, 6])].into_iter().collect(),
        life: 1,
        regions: vec![id("a"), id("b")],
        hash_key: fleet::HASH_KEY,
        capacity: 64,
        worst_rtt: Duration::from_millis(100),
        budget: ByteSize(1 << 20),
    };
    let now = |ms: u64| Now {
        mono: Timestamp::ZERO + Duration::from_millis(ms),
        wall: WallTime::from_unix_millis(1_795_312_345_678 + ms),
    };
    let mut limits = Limits::new(config, Recovery::FirstStart, now(0));
    limits.handle_definitions(&[definition(1, "60/min", OnPartition::Static)], now(0));
    let slot = now(0).wall.as_unix_millis() / 60_000;
    let key = Key::new(&fleet::HASH_KEY, LimitId(1), &[b"k"]);
    for lender in 1..=6 {
        let row = Row { consumed: 1, lent: [(Loan::Units, 0, 2)].into_iter().collect(), ..Row::default() };
        let number = Some(Number { life: 9, count: 1 });
        let rows =
            Message::Rows(Rows { scope: scope(&["a", "b"]), limit: LimitId(1), slot, number, rows: vec![(key, row)] });
        assert_eq!(limits.handle_message(&id("b"), &name("b", lender), rows, now(10)), Ok(()));
    }
    let mut told = BTreeSet::new();
    for ms in 1..=20 {
        limits.handle_timeout(now(ms * 100));
        while let Some((to, message)) = limits.poll_transmit() {
            if let (Message::Heartbeat(heartbeat), Some(node)) = (message, to.node)
                && heartbeat.seen != Seen::default()
            {
                told.insert(node);
            }
        }
    }
    assert_eq!(told, (1..=6).map(|number| name("b", number)).collect());
}

#[test]
fn a_region_that_restarted_is_told_all_its_rows_in_time_and_within_the_budget_of_repairs() {
    let id = |region: &str| RegionId::new(region).expect("a name");
    let name = |region: &str| fleet::node(&id(region));
    let config = LimitsConfig {
        node: name("a"),
        region: id("a"),
        neighbours: Vec::new(),
        rosters: BTreeMap::new(),
        life: 1,
        regions: vec![id("a"), id("b")],
        hash_key: fleet::HASH_KEY,
        capacity: 4096,
        worst_rtt: Duration::from_millis(100),
        budget: ByteSize(8 * BYTES),
    };
    let start = fleet::START.as_unix_millis() / 3_600_000 * 3_600_000;
    let now = |ms: u64| Now {
        mono: Timestamp::ZERO + Duration::from_millis(ms),
        wall: WallTime::from_unix_millis(start + ms),
    };
    let slot = start / 3_600_000;
    let mut limits = Limits::new(config, Recovery::FirstStart, now(0));
    limits.handle_definitions(&[definition(1, "600000/h", OnPartition::Static)], now(0));
    let key = |at: u64| Key::new(&fleet::HASH_KEY, LimitId(1), &[&at.to_le_bytes()]);
    let row = Row { consumed: 300, lent: [(Loan::Units, 0, 20)].into_iter().collect(), ..Row::default() };
    for first in (0..KEYS).step_by(20) {
        let rows = (first..first + 20).map(|at| (key(at), row.clone())).collect();
        let rows = Message::Rows(Rows { scope: scope(&["a", "b"]), limit: LimitId(1), slot, number: None, rows });
        assert_eq!(limits.handle_message(&id("b"), &name("b"), rows, now(10)), Ok(()));
    }
    let mut told = BTreeSet::new();
    let mut bytes = 0;
    for second in 1..=30 {
        // It never knows them: as under load, when its digest is of other rows each time.
        let summary = SlotSummary { limit: LimitId(1), slot, buckets: [0; 16], restarted: true };
        let digests = Message::Digests(vec![summary]);
        assert_eq!(limits.handle_message(&id("b"), &name("b"), digests, now(second * 1000)), Ok(()));
        limits.handle_timeout(now(second * 1000));
        while let Some((_, message)) = limits.poll_transmit() {
            if let Message::Echo(rows) = &message {
                bytes += codec::encode(&message).expect("encodes").len() as u64;
                told.extend(rows.rows.iter().map(|(key, _)| *key));
            }
        }
        // What a second leaves is there for the next one.
        assert!(bytes <= BYTES * (second + 1), "{bytes} bytes in {second} seconds");
    }
    assert_eq!(told.len() as u64, KEYS);
}

/// Bytes a second for repairs.
const BYTES: u64 = 8 << 10;

const KEYS: u64 = 2000;

#[test]
fn a_region_that_knows_its_rows_again_is_told_them_no_more() {
    let mut fleet = Fleet::new(3, vec![definition(1, "6000/h", OnPartition::Static)], 5);
    fleet.settle();
    let load = |fleet: &mut Fleet, seconds: u64| {
        for request in 0..seconds * 100 {
            (0..3).for_each(|at| _ = fleet.request(at, &[(1, request % 30)]));
            fleet.run(10);
        }
    };
    load(&mut fleet, 20);
    fleet.crash(0);
    fleet.run(100);
    fleet.restart(0);
    load(&mut fleet, 10);
    assert!(fleet.echoes > 0, "it is told its rows");
    load(&mut fleet, 60);
    let before = fleet.echoes;
    load(&mut fleet, 10);
    assert_eq!(fleet.echoes, before);
}
