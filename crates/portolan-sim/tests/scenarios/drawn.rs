//! Scenarios that seeds draw: whatever breaks, every invariant holds, and in the end all agree.

use std::collections::BTreeSet;

use portolan_config::{Scenario, SourceFile};

use crate::loaded::Loaded;

#[test]
fn a_seed_draws_one_scenario_and_writes_it_as_it_reads() {
    let base = Loaded::shipped("steady");
    assert_eq!(base.drawn(3).rendered(), base.drawn(3).rendered());
    assert_ne!(base.drawn(3).rendered(), base.drawn(4).rendered());
    for name in ["steady", "fleet-restart", "limits/nodes-cut", "limits/lender", "limits/fence"] {
        let base = Loaded::shipped(name);
        for seed in 0..40 {
            let drawn = base.drawn(seed).rendered();
            let file = SourceFile { path: "drawn.yaml".to_owned(), text: drawn.clone() };
            let read = Scenario::parse(&file).unwrap_or_else(|faults| panic!("{}", faults.render()));
            assert_eq!(read.render(), drawn, "{name}, seed {seed}");
        }
    }
}

#[test]
fn every_kind_of_fault_is_drawn_by_some_seed() {
    let base = Loaded::shipped("fleet-restart");
    let texts: Vec<String> = (0..100).map(|seed| base.drawn(seed).rendered()).collect();
    let any = |words: &str| texts.iter().any(|text| text.contains(words));
    assert!(any("fault: partition, nodes: ["), "no cut between nodes");
    assert!(any("\nlimit_keys: ") && !any("\nwithin: "), "tables are small at times, and no region has two nodes");
    let several = (0..20).map(|seed| Loaded::shipped("limits/nodes").drawn(seed).rendered());
    assert!(several.into_iter().any(|text| text.contains("\nwithin: { loss: ")), "nothing is lost within a region");
    let words = texts.iter().flat_map(|text| text.split_whitespace());
    let pairs: Vec<&str> = words.collect();
    let drawn: BTreeSet<&str> = pairs
        .windows(2)
        .filter(|pair| pair[0] == "fault:" || pair[0] == "disk:" || pair[0] == "do:")
        .map(|pair| pair[1].trim_matches(|c: char| !c.is_ascii_alphabetic()))
        .collect();
    let expected = [
        "apply",
        "bad-config",
        "bandwidth",
        "clock-drift",
        "clock-step",
        "crash",
        "disk-full",
        "disk-slow",
        "drain",
        "duplicate",
        "latency",
        "limits",
        "loss",
        "lost",
        "partition",
        "pause",
        "quorum-loss",
        "redis",
        "reorder",
        "restore",
        "rollback",
        "slow",
        "surge",
        "torn",
    ];
    assert_eq!(drawn, BTreeSet::from(expected));
}

#[test]
fn drawn_scenarios_hold_every_invariant() {
    check_steady(1..=10);
}

#[test]
fn as_many_more_drawn_scenarios_hold_every_invariant() {
    check_steady(11..=20);
}

/// One that a follower without space ended, and two in which a clock was ahead for more than a minute.
#[test]
fn drawn_scenarios_that_broke_an_invariant_once_hold_every_one() {
    check_steady([368, 831, 912]);
}

fn check_steady(seeds: impl IntoIterator<Item = u64>) {
    let base = Loaded::shipped("steady");
    for seed in seeds {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn drawn_scenarios_with_several_nodes_in_a_region_hold_every_invariant() {
    let base = Loaded::shipped("limits/nodes");
    for seed in 1..=3 {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn drawn_scenarios_in_which_limits_of_concurrency_change_hold_every_invariant() {
    let base = Loaded::shipped("limits/recalled");
    for seed in 1..=4 {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn drawn_scenarios_in_which_requests_are_refunded_hold_every_invariant() {
    let base = Loaded::shipped("limits/refunds");
    for seed in 1..=3 {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn drawn_scenarios_in_which_shares_change_hold_every_invariant() {
    let base = Loaded::shipped("shares-change-during-partition");
    for seed in 1..=6 {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn drawn_scenarios_with_a_lender_hold_every_invariant() {
    let base = Loaded::shipped("limits/lender");
    for seed in 1..=10 {
        base.drawn(seed).check([seed]);
    }
}

#[test]
fn more_drawn_scenarios_hold_every_invariant() {
    let base = Loaded::shipped("fleet-restart");
    for seed in 11..=20 {
        base.drawn(seed).check([seed]);
    }
}
