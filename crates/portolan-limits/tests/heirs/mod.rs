//! Nodes that restart and that take over from one another: whatever was spent before counts, and what was not comes back.

use crate::region::{Region, SECOND};

/// Keys that requests ask for.
const KEYS: [&[u8]; 4] = [b"k", b"l", b"m", b"n"];

/// Requests of every node for every key, one a millisecond.
pub fn load(region: &mut Region, millis: u64) {
    for at in 0..millis {
        for node in 0..region.len() {
            region.request_of(node, KEYS[(at % 4) as usize]);
        }
        region.pass(1);
    }
}

/// Ends a process, and starts it again when the others have taken over from it.
pub fn replace(region: &mut Region, at: usize) {
    let rest: Vec<usize> = (0..3).filter(|node| *node != at).collect();
    region.kill(at);
    region.list_after(20, &rest);
    region.pass(100);
    region.start(at);
}

#[test]
fn a_day_s_quota_is_not_spent_again_in_two_rolling_deploys() {
    for seed in 1..=2 {
        let mut region = Region::started(seed, &["600/day"], 3);
        let [owner, heir, third] = region.roles();
        let spend = |region: &mut Region, units: u64| {
            let wanted = region.admitted_in_all() + units;
            for _ in 0..2 * SECOND {
                if region.admitted_in_all() >= wanted {
                    return;
                }
                (0..3).for_each(|at| region.request(at));
                region.pass(1);
            }
            panic!("seed {seed}: {} of {wanted}", region.admitted_in_all());
        };
        spend(&mut region, 280);
        // The heir spends on from what its own mirror said; the owner comes back and asks it.
        replace(&mut region, owner);
        // A tenth is presumed spent by each change of owners, and a few units lie with nodes that have them left.
        spend(&mut region, 190);
        region.list_after(1, &[0, 1, 2]);
        region.pass(300);
        // From here on nobody spends: the third node hears of the key from the owner alone, and is left alone with it.
        region.kill(heir);
        region.list_after(20, &[owner, third]);
        region.pass(300);
        region.kill(owner);
        region.list_after(20, &[third]);
        region.pass(300);
        load(&mut region, 2 * SECOND);
        region.check_bound();
        assert!(region.admitted_in_all() >= 470, "{}", region.admitted_in_all());
    }
}

#[test]
fn what_is_left_of_a_long_window_is_spent_after_its_owner_was_away() {
    for (seed, limits) in [(1, ["1000/day"]), (2, ["1000/day"]), (3, ["sliding 1000/h"]), (4, ["sliding 1000/h"])] {
        let mut region = Region::started(seed, &limits, 3);
        let [owner, heir, third] = region.roles();
        // The heir serves from what the owner grants it, then from what it took over, then from grants again.
        let serve = |region: &mut Region, millis: u64| {
            for _ in 0..millis / 25 {
                region.request(heir);
                region.pass(25);
            }
        };
        serve(&mut region, 2 * SECOND);
        // With its process, or off the roster alone.
        let restarts = seed % 2 == 1;
        if restarts {
            region.kill(owner);
        }
        region.list_after(20, &[heir, third]);
        serve(&mut region, 3 * SECOND);
        if restarts {
            region.start(owner);
        }
        region.list_after(20, &[0, 1, 2]);
        for _ in 0..10 * SECOND {
            (0..3).for_each(|at| region.request(at));
            region.pass(1);
        }
        region.check_bound();
        // Less the tenth that needs no mark, and what two owners had marked ahead: a tenth each.
        let admitted = region.admitted_in_all();
        assert!(admitted >= 700, "seed {seed}: {admitted} of {limits:?}");
    }
}

#[test]
fn ten_owners_in_a_row_that_spend_little_use_up_little_of_a_day_s_quota() {
    for seed in 1..=2 {
        let mut region = Region::started(seed, &["1000/day"], 3);
        let [owner, heir, third] = region.roles();
        let serve = |region: &mut Region| {
            for _ in 0..10 {
                region.request(heir);
                region.pass(25);
            }
        };
        serve(&mut region);
        for _ in 0..5 {
            region.kill(owner);
            region.list_after(20, &[heir, third]);
            region.pass(200);
            serve(&mut region);
            region.start(owner);
            region.list_after(20, &[0, 1, 2]);
            region.pass(300);
            serve(&mut region);
        }
        let before = region.admitted_in_all();
        assert!(before >= 75, "seed {seed}: {before} of 110");
        for _ in 0..10 * SECOND {
            (0..3).for_each(|at| region.request(at));
            region.pass(1);
        }
        region.check_bound();
        // Less a tenth that the first may have spent without a mark, and for each of the others what it spent once more.
        let admitted = region.admitted_in_all();
        assert!(admitted >= 800, "seed {seed}: {admitted}");
    }
}

#[test]
fn a_slot_is_not_spent_anew_by_the_second_of_two_heirs_in_a_row() {
    const WINDOW: u64 = 5 * SECOND;
    let mut region = Region::started(1, &["100/5s"], 3);
    let [second, first, owner] = region.roles();
    region.list_after(1, &[owner]);
    region.pass_until_before(2700, WINDOW);
    // The first heir's last word to its disk reaches to the end of the slot before, and no further.
    region.stall(first, true);
    region.pass_until_before(0, WINDOW);
    for _ in 0..200 {
        region.request(owner);
        region.pass(1);
    }
    let spent = region.admitted_in_all();
    // It takes the key over, and gives it away before it can write what it took over.
    region.list_after(1, &sorted(owner, first));
    region.list_after(20, &[0, 1, 2]);
    region.pass(200);
    region.stall(first, false);
    for _ in 0..2 * SECOND {
        region.request(second);
        region.pass(1);
    }
    assert_eq!((spent, region.admitted_in_all()), (100, 100));
    load(&mut region, 10 * SECOND);
    region.check_bound();
    assert!(region.admitted_in_all() >= 200, "the slots that begin later are open: {}", region.admitted_in_all());
}

fn sorted(one: usize, other: usize) -> [usize; 2] {
    [one.min(other), one.max(other)]
}

#[test]
fn a_concurrency_limit_has_all_its_units_after_restarts() {
    for limit in ["concurrency 1", "concurrency 9"] {
        let mut region = Region::started(1, &[limit], 1);
        let mut before = 0;
        for _ in 0..3 {
            load(&mut region, 5 * SECOND);
            let admitted = region.admitted_in_all() - before;
            assert!(admitted >= 20, "{admitted} of {limit} in five seconds");
            before = region.admitted_in_all();
            region.kill(0);
            region.pass(50);
            region.start(0);
        }
        region.check_bound();
    }
}

#[test]
fn a_sliding_window_carries_over_what_was_spent_before_a_restart() {
    for (seed, limit) in [(1, "sliding 400/12s"), (2, "sliding 400/12s"), (3, "sliding 90/s"), (4, "sliding 90/s")] {
        let mut region = Region::started(seed, &[limit], 1);
        for _ in 0..6 {
            load(&mut region, 2 * SECOND + 700);
            region.kill(0);
            region.pass(20 + 100 * seed);
            region.start(0);
        }
        load(&mut region, 8 * SECOND);
        region.check_bound();
        assert!(region.admitted_in_all() >= 150, "{} of {limit}", region.admitted_in_all());
    }
}

/// Deploys, deaths, cuts and rosters at random under load.
pub fn shaken(seed: u64, limits: &[&str]) -> Region {
    let mut region = Region::started(seed, limits, 3);
    for _ in 0..8 {
        let (at, millis) = (region.below(3) as usize, region.below(2500));
        load(&mut region, 200 + millis);
        let rest: Vec<usize> = (0..3).filter(|node| *node != at).collect();
        match region.below(4) {
            0 => replace(&mut region, at),
            1 => {
                region.kill(at);
                region.pass(30);
                region.start(at);
            }
            2 => {
                region.cut_off(at);
                region.list_after(1200, &rest);
                load(&mut region, 1500);
                region.heal();
            }
            _ => region.list_after(5, &rest),
        }
        load(&mut region, millis);
        region.list_after(1, &[0, 1, 2]);
    }
    load(&mut region, 4 * SECOND);
    region
}

#[test]
fn no_key_of_a_sliding_window_exceeds_it_whoever_owns_it() {
    for seed in 1..=3 {
        let region = shaken(seed, &["sliding 60/s", "sliding 500/10s", "sliding 900/min"]);
        region.check_bound();
        for (limit, least) in [(1, 200), (2, 300), (3, 500)] {
            assert!(region.admitted(limit, b"l") >= least, "{} of {limit}", region.admitted(limit, b"l"));
        }
    }
}

#[test]
fn no_key_of_a_fixed_window_exceeds_it_whoever_owns_it() {
    for seed in 4..=6 {
        let region = shaken(seed, &["60/s", "500/10s", "900/day"]);
        region.check_bound();
        for (limit, least) in [(1, 200), (2, 500), (3, 600)] {
            assert!(region.admitted(limit, b"l") >= least, "{} of {limit}", region.admitted(limit, b"l"));
        }
    }
}

#[test]
fn no_key_of_a_bucket_exceeds_it_whoever_owns_it() {
    for seed in 7..=9 {
        let region = shaken(seed, &["bucket 20/s burst 100", "bucket 50/s burst 10"]);
        region.check_bound();
        for (limit, least) in [(1, 200), (2, 300)] {
            assert!(region.admitted(limit, b"l") >= least, "{} of {limit}", region.admitted(limit, b"l"));
        }
    }
}

#[test]
fn keys_without_room_are_charged_where_they_are_owned_alone_and_never_twice() {
    for (seed, limits) in [(1, ["200/s", "700/day"]), (2, ["sliding 200/s", "bucket 100/s burst 150"])] {
        let mut region = Region::started(seed, &limits, 3);
        // More than there is room for at any node, twice a second, so that their entries live.
        let crowd: Vec<String> = (0..400).map(|number| format!("crowd-{number}")).collect();
        for second in 0..8 {
            for name in &crowd {
                (0..3).for_each(|at| region.request_of(at, name.as_bytes()));
            }
            for at in 0..500 {
                (0..3).for_each(|node| region.request_of(node, KEYS[at % 4]));
                region.pass(1);
            }
            if second == 4 {
                let [owner, ..] = region.roles();
                replace(&mut region, owner);
            }
        }
        region.check_bound();
        assert!(crowd.iter().filter(|name| region.admitted(1, name.as_bytes()) > 0).count() > 50);
    }
}

#[test]
fn a_region_that_loses_power_goes_on_without_the_node_that_does_not_return() {
    for seed in 1..=3 {
        let mut region = Region::started(seed, &["40/s", "200/day"], 3);
        let [owner, heir, third] = region.roles();
        load(&mut region, 2 * SECOND);
        (0..3).for_each(|at| region.kill(at));
        region.pass(2 * SECOND);
        // The others come back after the roster was changed, or before.
        if seed % 2 == 0 {
            region.list_after(1, &[heir, third]);
            region.pass(10);
        }
        region.start(heir);
        region.start(third);
        region.list_after(500, &[heir, third]);
        region.pass(5 * SECOND);
        assert_eq!((region.awaited(heir), region.awaited(third)), (vec![owner], vec![owner]));
        region.pass(30 * SECOND);
        assert_eq!((region.awaited(heir), region.awaited(third)), (vec![], vec![]));
        let before = region.admitted_in_all();
        load(&mut region, 5 * SECOND);
        let admitted = region.admitted_in_all() - before;
        assert!(admitted >= 160, "seed {seed}: {admitted} of 200 in five seconds");
        // It returns after all, and so does the whole of what is left.
        region.start(owner);
        region.list_after(1, &[0, 1, 2]);
        load(&mut region, 5 * SECOND);
        region.check_bound();
    }
}

#[test]
fn a_standby_that_restarts_shortly_before_its_owner_dies_takes_over() {
    let mut region = Region::started(1, &["40/s"], 3);
    let [owner, heir, third] = region.roles();
    load(&mut region, SECOND);
    region.kill(heir);
    region.pass(5);
    region.start(heir);
    region.kill(owner);
    region.list_after(500, &[heir, third]);
    region.pass(35 * SECOND);
    let before = region.admitted_in_all();
    load(&mut region, 5 * SECOND);
    assert!(region.admitted_in_all() >= before + 160, "{} in five seconds", region.admitted_in_all() - before);
    region.check_bound();
}
