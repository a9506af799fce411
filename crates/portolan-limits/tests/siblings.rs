//! Several nodes of one region: together they admit exactly the limit, whoever owns it and whoever dies.

mod flight;
mod heirs;
mod region;

use region::{Region, SECOND};

/// Requests of every node at more than the limit; returns what was admitted in each of the slots from `first`.
fn overload(region: &mut Region, seconds: u64, per_node_and_ms: u64) {
    for _ in 0..seconds * SECOND {
        for at in 0..region.len() {
            for _ in 0..per_node_and_ms {
                region.request(at);
            }
        }
        region.pass(1);
    }
}

fn sorted(mut nodes: [usize; 2]) -> [usize; 2] {
    nodes.sort_unstable();
    nodes
}

#[test]
fn three_nodes_admit_exactly_a_fixed_window_s_limit_under_overload() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["1000/s"], 3);
        overload(&mut region, 8, 1);
        let slots = region.full_slots();
        assert!(slots.len() >= 6, "{slots:?}");
        region.check_bound();
        let least = slots.iter().map(|(_, admitted)| *admitted).min().expect("slots");
        assert!(least >= 990, "seed {seed}: {slots:?}");
    }
}

#[test]
fn three_nodes_admit_exactly_the_last_units_of_a_small_limit() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["7/s"], 3);
        overload(&mut region, 8, 1);
        region.check_bound();
        let slots = region.full_slots();
        assert!(slots.iter().all(|(_, admitted)| *admitted == 7), "seed {seed}: {slots:?}");
    }
}

#[test]
fn three_nodes_admit_exactly_a_day_s_quota_and_count_on_after_every_node_was_killed() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["5000/day"], 3);
        overload(&mut region, 1, 1);
        for at in 0..3 {
            region.kill(at);
        }
        region.pass(200);
        for at in 0..3 {
            region.start(at);
        }
        overload(&mut region, 6, 1);
        region.check_bound();
        let admitted = region.admitted_in_all();
        // What was marked and not spent by those who died is lost, and so is what they had in hand.
        assert!((3500..=5000).contains(&admitted), "seed {seed}: {admitted}");
    }
}

#[test]
fn requests_that_cost_much_use_a_limit_up_at_whichever_node_they_come() {
    for rate in ["1000/10s", "1000/min", "bucket 1000/10s burst 1000", "sliding 1000/10s"] {
        for turn in [false, true] {
            let mut region = Region::started(1, &[&format!("{rate} costing 150")], 3);
            region.pass(24 * SECOND);
            let [owner, _, other] = region.roles();
            for round in 0..20 {
                region.request_costing(if turn && round % 2 == 0 { owner } else { other }, b"k", 150);
                region.pass(20);
            }
            region.check_bound();
            assert_eq!(region.admitted_in_all(), 900, "{rate}, at the owner too: {turn}");
        }
    }
}

#[test]
fn the_nodes_of_a_region_together_tell_each_key_and_unit_once() {
    let mut region = Region::started(1, &["5000/day"], 3);
    overload(&mut region, 6, 1);
    let admitted = region.admitted_in_all();
    // A tenth needs no mark, so it counts as spent by those who owned the key while the region formed.
    assert!(admitted >= 4490, "it is used up: {admitted}");
    let (keys, units) = region.told();
    assert_eq!(keys, 1);
    // The owner counts what it granted, so what lies in a node's chunk, too.
    assert!((admitted..=5000).contains(&units), "{units} told of {admitted}");
}

#[test]
fn an_owner_that_dies_is_followed_by_its_standby_and_nothing_is_spent_twice() {
    for seed in 1..=5 {
        let mut region = Region::started(seed, &["1000/s", "100000/day"], 3);
        overload(&mut region, 2, 1);
        region.check_bound();
        let before = region.now_ms();
        let [owner, standby, third] = region.roles();
        region.kill(owner);
        region.list_after(1200, &sorted([standby, third]));
        overload(&mut region, 6, 1);
        region.check_bound();
        let stall = region.longest_stall(before);
        assert!(stall <= 5500, "seed {seed}: nothing was admitted for {stall} ms");
        region.start(owner);
        region.list_after(2500, &[0, 1, 2]);
        overload(&mut region, 6, 1);
        region.check_bound();
    }
}

#[test]
fn two_owners_at_a_time_do_not_spend_twice_for_the_earlier_one_is_fenced_by_its_standby() {
    for seed in 1..=5 {
        let mut region = Region::started(seed, &["1000/s", "100000/day"], 3);
        overload(&mut region, 2, 1);
        // The owner lives on and serves; nobody hears it, and the roster that leaves it out does not reach it.
        let [owner, standby, third] = region.roles();
        region.cut_off(owner);
        region.list_after(1200, &sorted([standby, third]));
        let alone = region.now_ms();
        overload(&mut region, 5, 1);
        region.check_bound();
        assert!(region.longest_stall(alone) <= 5500, "seed {seed}");
        region.heal();
        region.list_after(10, &[0, 1, 2]);
        overload(&mut region, 5, 1);
        region.check_bound();
    }
}

#[test]
fn a_standby_that_dies_holds_its_owner_up_until_another_one_stands_by() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["1000/s", "100000/day"], 3);
        overload(&mut region, 2, 1);
        let before = region.now_ms();
        let [owner, standby, third] = region.roles();
        region.kill(standby);
        region.list_after(1200, &sorted([owner, third]));
        overload(&mut region, 6, 1);
        region.check_bound();
        assert!(region.longest_stall(before) <= 5500, "seed {seed}");
    }
}

#[test]
fn a_node_that_starts_again_at_once_goes_on_from_its_own_marks() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["1000/s", "20000/day"], 3);
        for at in [0, 1, 2, 0] {
            overload(&mut region, 1, 1);
            region.kill(at);
            region.pass(300);
            region.start(at);
        }
        overload(&mut region, 4, 1);
        region.check_bound();
    }
}

#[test]
fn loss_and_reordering_between_the_nodes_cost_time_and_never_the_bound() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["1000/s", "100000/day"], 3);
        region.lose_percent(20);
        overload(&mut region, 5, 1);
        region.check_bound();
        let slots = region.full_slots();
        assert!(slots.iter().all(|(_, admitted)| *admitted >= 900), "seed {seed}: {slots:?}");
    }
}

fn bucket(seed: u64, per_second: u64, burst: u64) -> Region {
    Region::started(seed, &[&format!("bucket {per_second}/s burst {burst}")], 3)
}

#[test]
fn rule_8_nodes_of_a_region_admit_in_no_interval_more_than_one_bucket_while_grants_are_under_way() {
    for (seed, per_second, burst) in [(1, 300, 90), (2, 40, 10), (3, 1000, 1000), (4, 5, 40), (5, 100, 1)] {
        let mut region = bucket(seed, per_second, burst);
        for round in 0..6 {
            // Quiet until the bucket is full and every node holds what it was granted, then everybody at once.
            for at in 0..3 {
                region.request(at);
            }
            region.pass(700 + 130 * round);
            overload(&mut region, 2, 1);
            region.lose_percent(10 * (round % 3));
        }
        region.check_bound();
    }
}

#[test]
fn rule_8_a_bucket_whose_owner_is_killed_or_changes_admits_no_token_twice() {
    for seed in 1..=3 {
        let mut region = bucket(seed, 50, 60);
        for round in 0..5 {
            overload(&mut region, 1, 1);
            let [victim, ..] = region.roles();
            match round % 3 {
                0 => {
                    region.kill(victim);
                    region.pass(100 * seed);
                    region.start(victim);
                }
                1 => region.list_after(10, &sorted([(victim + 1) % 3, (victim + 2) % 3])),
                _ => region.list_after(10, &[0, 1, 2]),
            }
            overload(&mut region, 3, 1);
        }
        region.check_bound();
        assert!(region.admitted_in_all() >= 100, "seed {seed}: {} admitted", region.admitted_in_all());
    }
}

#[test]
fn an_answer_to_a_process_that_lost_its_disk_tells_its_successor_nothing() {
    let mut region = Region::started(1, &["5000/day"], 3);
    let [owner, standby, third] = region.roles();
    let rest = sorted([standby, third]);
    region.list_after(1, &rest);
    for _ in 0..300 {
        region.request(standby);
        region.pass(1);
    }
    region.keep_answers_to(owner);
    region.list_after(1, &[0, 1, 2]);
    region.pass(40);
    let old = region.take_kept();
    assert!(old.iter().any(|(from, _)| *from == standby), "it was asked and has answered");
    for _ in 0..4 * SECOND {
        region.request(owner);
        region.pass(1);
    }
    let before = region.admitted_in_all();
    assert!(before >= 3000, "{before} admitted");
    region.kill(owner);
    region.lose_disk(owner);
    region.start(owner);
    for (from, message) in old {
        region.deliver(from, owner, message);
    }
    for _ in 0..6 * SECOND {
        region.request(owner);
        region.pass(1);
    }
    region.check_bound();
}
