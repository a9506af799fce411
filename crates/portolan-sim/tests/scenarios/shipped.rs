//! Every shipped scenario with two seeds, every regression with its own; `portolan simulate` runs more.

use crate::loaded::{self, Loaded};

fn check(name: &str) {
    Loaded::shipped(name).check([1, 2]);
}

#[test]
fn steady() {
    check("steady");
}

#[test]
fn region_isolated() {
    check("region-isolated");
}

#[test]
fn leader_crash_during_applies() {
    check("leader-crash-during-applies");
}

#[test]
fn region_killed() {
    check("region-killed");
}

#[test]
fn drain_during_partition() {
    check("drain-during-partition");
}

#[test]
fn shares_change_during_partition() {
    check("shares-change-during-partition");
}

#[test]
fn fleet_restart() {
    check("fleet-restart");
}

#[test]
fn what_broke_once_stays_whole() {
    for (file, seed) in loaded::regressions() {
        Loaded::of(file).check([seed, 1, 2]);
    }
}
