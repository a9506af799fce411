//! How wrong limits are: regions with their real state machines in virtual time, under the demand and the faults that
//! figures are promised for, against an oracle that counts verdicts.
//!
//! The ordinary run is short. `ROWS_SEEDS=5 ROWS_SECONDS=60 cargo test --release -p portolan-limits --test rows --
//! --nocapture` runs every row longer and prints the tables; `ROWS_ONLY=rotates` runs the rows with that in their name.

mod demand;
mod network;
mod oracle;
mod partitions;
mod random;
mod region;
mod report;
mod table;
mod watch;
mod world;

use table::{Row, Scale};
use world::World;

/// The value of a variable, or what the ordinary run takes.
fn variable(name: &str, ordinary: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(ordinary)
}

/// Runs rows and demands that each stays in its bands.
fn check(rows: fn(Scale) -> Vec<Row>) {
    let scale = Scale { seconds: variable("ROWS_SECONDS", 12), seeds: variable("ROWS_SEEDS", 1) };
    let only = std::env::var("ROWS_ONLY").unwrap_or_default();
    let rows: Vec<Row> = rows(scale).into_iter().filter(|row| row.name.contains(&only)).collect();
    let outcomes = report::run(&rows, scale);
    println!("{}", report::markdown(&rows, &outcomes));
    let misses: Vec<String> =
        rows.iter().zip(&outcomes).flat_map(|(row, outcome)| report::misses(row, outcome)).collect();
    assert!(misses.is_empty(), "{}", misses.join("\n"));
}

#[test]
fn with_every_region_in_reach_limits_are_exact_and_refuse_almost_nothing_wrongly() {
    check(table::healthy);
}

#[test]
fn small_limits_are_exact_and_refuse_as_little_as_their_size_allows() {
    check(table::small);
}

#[test]
fn in_a_partition_each_policy_admits_and_refuses_what_it_promises() {
    check(partitions::partitions);
}

#[test]
fn whatever_crashes_or_runs_wrong_no_slot_exceeds_its_limit() {
    check(partitions::faults);
}

#[test]
fn under_faults_drawn_from_a_seed_no_slot_exceeds_its_limit() {
    let mut steps = 0;
    for seed in 1..=variable("ROWS_RANDOM", 12) {
        let row = random::row(seed);
        let world = World::new(&row, seed).run();
        let over = world.oracle.most_allowed().saturating_sub(row.quota);
        assert!(over <= row.bands.over_units, "{}: {over} units above the quota: {row:?}", row.name);
        steps += world.steps;
    }
    println!("{steps} steps");
}
