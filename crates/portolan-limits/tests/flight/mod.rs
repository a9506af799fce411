//! Limits of concurrency over the nodes of a region: never more in flight than the limit, whoever owns a key and whoever
//! dies, and in the end all of it again.

use portolan_limits::{Hold, LimitId, Neighbour, Spot};

use crate::{
    heirs::{load, replace, shaken},
    region::{Region, SECOND},
};

/// Nodes besides one.
fn rest(at: usize) -> Vec<usize> {
    (0..3).filter(|node| *node != at).collect()
}

/// Requests for one key at some nodes, one a millisecond each.
fn press(region: &mut Region, nodes: &[usize], millis: u64) {
    for _ in 0..millis {
        nodes.iter().for_each(|at| region.request(*at));
        region.pass(1);
    }
}

/// Lets everything end, and then as much begin at one node as it may.
fn most_at(region: &mut Region, at: usize) -> usize {
    region.pass(8 * SECOND);
    assert_eq!(region.in_flight(b"k"), 0, "all has ended");
    region.last_at_most(20 * SECOND);
    press(region, &[at], 4 * SECOND);
    region.in_flight(b"k")
}

#[test]
fn what_other_nodes_hold_counts_under_an_owner_that_starts_again() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        let [owner, ..] = region.roles();
        for _ in 0..4 {
            press(&mut region, &[0, 1, 2], SECOND);
            region.kill(owner);
            region.pass(30);
            region.start(owner);
            press(&mut region, &[0, 1, 2], SECOND);
            region.check_bound();
        }
        assert!(region.admitted_in_all() >= 500, "seed {seed}: {} admitted", region.admitted_in_all());
    }
}

#[test]
fn what_other_nodes_hold_counts_under_an_heir() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        for _ in 0..3 {
            press(&mut region, &[0, 1, 2], SECOND);
            let [owner, ..] = region.roles();
            region.kill(owner);
            region.list_after(1200, &rest(owner));
            press(&mut region, &rest(owner), 6 * SECOND);
            region.check_bound();
            region.start(owner);
            region.list_after(200, &[0, 1, 2]);
            press(&mut region, &[0, 1, 2], SECOND);
            region.check_bound();
        }
        assert!(region.admitted_in_all() >= 1000, "seed {seed}: {} admitted", region.admitted_in_all());
    }
}

#[test]
fn an_owner_that_is_cut_off_begins_nothing_after_its_heir_has_begun() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        press(&mut region, &[0, 1, 2], SECOND);
        let [owner, ..] = region.roles();
        region.cut_off(owner);
        region.list_after(1200, &rest(owner));
        press(&mut region, &[0, 1, 2], 6 * SECOND);
        region.check_bound();
        region.heal();
        region.list_after(10, &[0, 1, 2]);
        press(&mut region, &[0, 1, 2], 3 * SECOND);
        region.check_bound();
    }
}

#[test]
fn a_node_that_is_cut_off_gives_up_what_it_holds_and_gets_it_again() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        press(&mut region, &[0, 1, 2], SECOND);
        let [owner, _, third] = region.roles();
        region.cut_off(third);
        region.list_after(1200, &rest(third));
        press(&mut region, &[0, 1, 2], 4 * SECOND);
        // From here on it is known to have begun nothing.
        region.last_at_most(20 * SECOND);
        press(&mut region, &rest(third), 4 * SECOND);
        region.check_bound();
        assert_eq!(region.in_flight(b"k"), 30, "seed {seed}: nothing is kept for it");
        region.heal();
        region.list_after(10, &[0, 1, 2]);
        region.pass(20 * SECOND);
        region.last_at_most(300);
        press(&mut region, &[0, 1, 2], 3 * SECOND);
        region.check_bound();
        assert_eq!(most_at(&mut region, owner), 30, "seed {seed}");
    }
}

#[test]
fn units_that_a_node_had_come_back_when_it_starts_again() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 12"], 3);
        let [owner, standby, third] = region.roles();
        for at in [standby, third, standby] {
            press(&mut region, &[0, 1, 2], SECOND);
            region.kill(at);
            region.pass(30);
            region.start(at);
        }
        press(&mut region, &[owner], SECOND);
        assert_eq!(most_at(&mut region, owner), 12, "seed {seed}");
        region.check_bound();
    }
}

#[test]
fn units_that_a_node_holds_come_back_when_its_requests_have_ended() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 12"], 3);
        let [owner, standby, third] = region.roles();
        region.last_at_most(50);
        for round in 0..40 {
            press(&mut region, &[standby, third], 100);
            region.pass(400 + 50 * (round % 13));
        }
        assert_eq!(most_at(&mut region, owner), 12, "seed {seed}");
        region.check_bound();
    }
}

#[test]
fn keys_that_are_not_used_any_more_leave_room_for_others() {
    let mut region = Region::started(1, &["concurrency 3"], 3);
    region.last_at_most(20);
    // Many times what a node has room for.
    for number in 0..1500 {
        let name = format!("key-{number}");
        for _ in 0..5 {
            (0..3).for_each(|at| region.request_of(at, name.as_bytes()));
            region.pass(1);
        }
    }
    region.pass(5 * SECOND);
    for number in 0..9 {
        let name = format!("late-{number}");
        for at in 0..3 {
            let before = region.admitted(1, name.as_bytes());
            for _ in 0..200 {
                region.request_of(at, name.as_bytes());
                region.pass(1);
            }
            assert!(region.admitted(1, name.as_bytes()) > before, "{name} at {at}");
            region.pass(1500);
        }
    }
    region.check_bound();
}

#[test]
fn no_key_of_a_concurrency_limit_exceeds_it_whoever_owns_it() {
    for seed in 10..=12 {
        let mut region = shaken(seed, &["concurrency 5", "concurrency 40"]);
        region.check_bound();
        for (limit, least) in [(1, 100), (2, 400)] {
            assert!(region.admitted(limit, b"l") >= least, "{} of {limit}", region.admitted(limit, b"l"));
        }
        let [owner, ..] = region.roles();
        assert_eq!(most_at(&mut region, owner), 5, "seed {seed}");
    }
}

#[test]
fn rolling_deploys_and_loss_cost_no_unit_of_a_concurrency_limit() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 20"], 3);
        region.lose_percent(10);
        for at in [0, 1, 2] {
            load(&mut region, SECOND);
            replace(&mut region, at);
            region.list_after(300, &[0, 1, 2]);
            load(&mut region, 2 * SECOND);
        }
        let [owner, ..] = region.roles();
        assert_eq!(most_at(&mut region, owner), 20, "seed {seed}");
        region.check_bound();
    }
}

#[test]
fn an_owner_that_starts_again_waits_for_a_node_that_it_does_not_hear() {
    for seed in 1..=2 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        press(&mut region, &[0, 1, 2], SECOND);
        let [owner, _, third] = region.roles();
        region.cut_off(third);
        region.kill(owner);
        region.pass(5);
        region.start(owner);
        region.list_after(1500, &rest(third));
        press(&mut region, &[0, 1, 2], 6 * SECOND);
        region.check_bound();
        assert!(region.in_flight(b"k") >= 25, "seed {seed}: {} in flight", region.in_flight(b"k"));
    }
}

#[test]
fn a_node_that_is_listed_again_has_lost_what_it_did_not_use() {
    for offset in 0..7 {
        let mut region = Region::started(offset, &["concurrency 30"], 3);
        press(&mut region, &[0, 1, 2], SECOND);
        let [.., third] = region.roles();
        region.cut_off(third);
        region.list_after(1, &rest(third));
        press(&mut region, &[0, 1, 2], 2500 + 100 * offset);
        region.heal();
        region.list_after(1, &[0, 1, 2]);
        press(&mut region, &[0, 1, 2], SECOND);
        region.check_bound();
    }
}

#[test]
fn another_limit_stops_none_that_is_in_force_while_a_node_is_silent() {
    let mut region = Region::started(1, &["concurrency 30"], 3);
    let [owner, _, third] = region.roles();
    press(&mut region, &[owner], SECOND);
    region.cut_off(third);
    region.add("concurrency 9");
    (0..3).for_each(|at| region.define(at));
    let before = region.admitted(1, b"k");
    press(&mut region, &[owner], 500);
    let admitted = region.admitted(1, b"k") - before;
    assert!(admitted >= 50, "{admitted} in half a second");
    region.check_bound();
}

#[test]
fn what_others_hold_of_a_limit_counts_at_a_new_owner_that_comes_to_know_the_limit_later() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 5"], 3);
        region.add("concurrency 30");
        let [owner, ..] = region.roles_of_limit(2, b"k");
        region.list_after(1, &rest(owner));
        region.pass(3 * SECOND);
        rest(owner).into_iter().for_each(|at| region.define(at));
        region.last_at_most(20 * SECOND);
        press(&mut region, &rest(owner), SECOND);
        let held = region.admitted(2, b"k");
        assert!(held >= 25, "seed {seed}: {held} at the others");
        region.list_after(1, &[0, 1, 2]);
        press(&mut region, &rest(owner), 3 * SECOND);
        region.define(owner);
        press(&mut region, &[owner], SECOND);
        region.check_bound();
    }
}

#[test]
fn a_key_without_room_stops_no_key_of_another_shard() {
    let mut region = Region::started(1, &["concurrency 30", "1000000/day"], 3);
    let [owner, _, third] = region.roles();
    let held: Vec<String> = (0..60).map(|at| format!("held-{at}")).collect();
    let held: Vec<&String> = held.iter().filter(|key| region.roles_of(key.as_bytes())[0] == owner).take(6).collect();
    region.last_at_most(60 * SECOND);
    for _ in 0..300 {
        held.iter().for_each(|key| region.request_of(third, key.as_bytes()));
        region.pass(1);
    }
    assert!(held.iter().all(|key| region.admitted(1, key.as_bytes()) > 0), "the third node holds them");
    region.kill(owner);
    region.cut_off(third);
    region.start(owner);
    for number in 0..600 {
        region.request_of(owner, format!("today-{number}").as_bytes());
        region.pass(1);
    }
    region.heal();
    region.pass(200);
    let before = region.admitted(1, b"k");
    press(&mut region, &[owner], SECOND);
    assert!(region.admitted(1, b"k") > before, "it holds {before}");
    region.check_bound();
}

#[test]
fn what_a_node_says_that_cannot_be_counted_takes_nothing_of_what_is_in_flight() {
    for units in [1 << 38, (1 << 37) - 2] {
        let mut region = Region::started(1, &["concurrency 5"], 3);
        let [owner, _, third] = region.roles();
        region.last_at_most(60 * SECOND);
        press(&mut region, &[owner], SECOND);
        assert_eq!(region.in_flight(b"k"), 5);
        let spot = Spot { limit: LimitId(1), key: region.key(1, b"k") };
        for (number, units) in [(1 << 60, units), (1 << 61, 0)] {
            let holds = vec![Hold { spot, number, units, waiting: 0, need: 0 }];
            region.forge(third, owner, Neighbour::Holds { life: region.life(third), holds });
        }
        press(&mut region, &[owner], SECOND);
        region.check_bound();
    }
}

/// What must hold soon after a limit is another one while all nodes ask for it: no more is in flight than it allows, and
/// nearly as much.
fn settles_at(region: &mut Region, rate: &str, most: usize) {
    region.change(rate);
    (0..3).for_each(|at| region.define(at));
    press(region, &[0, 1, 2], 3 * SECOND);
    for _ in 0..20 {
        press(region, &[0, 1, 2], 100);
        let in_flight = region.in_flight(b"k");
        assert!((most.div_ceil(2)..=most).contains(&in_flight), "{in_flight} of {most} in flight");
    }
}

#[test]
fn a_limit_that_is_lowered_under_load_is_kept_once_what_was_under_way_has_ended() {
    for (seed, loss) in [(1, 0), (2, 10), (3, 30)] {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        region.lose_percent(loss);
        region.last_at_most(500);
        press(&mut region, &[0, 1, 2], 2 * SECOND);
        region.check_bound();
        settles_at(&mut region, "concurrency 9", 9);
        settles_at(&mut region, "concurrency 1", 1);
        settles_at(&mut region, "concurrency 21", 21);
    }
}

#[test]
fn a_limit_that_is_lowered_is_kept_by_an_owner_that_starts_again_and_by_its_heir() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["concurrency 30"], 3);
        region.last_at_most(500);
        press(&mut region, &[0, 1, 2], 2 * SECOND);
        let [owner, ..] = region.roles();
        region.kill(owner);
        region.start(owner);
        settles_at(&mut region, "concurrency 9", 9);
        let [owner, ..] = region.roles();
        region.kill(owner);
        region.list_after(100, &rest(owner));
        region.change("concurrency 4");
        rest(owner).into_iter().for_each(|at| region.define(at));
        press(&mut region, &rest(owner), 6 * SECOND);
        assert!((2..=4).contains(&region.in_flight(b"k")), "seed {seed}: {} in flight", region.in_flight(b"k"));
    }
}
