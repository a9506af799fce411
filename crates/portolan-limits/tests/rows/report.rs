//! Runs rows and says what came of them: against their bands, and as a table for people.

use std::{fmt::Write as _, sync::Mutex, thread};

use crate::{
    oracle::Errors,
    table::{Row, Scale},
    world::World,
};

/// A row's errors over all seeds.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub errors: Errors,
    /// Units above the quota in the worst slot of all, measured or not.
    pub over_units: u64,
    /// Per cent of requests that waited, and for how many milliseconds in the mean.
    pub waited: f64,
    pub mean_wait_ms: f64,
    /// Messages per second between two regions.
    pub messages: f64,
}

/// Threads that run rows.
const THREADS: usize = 2;

/// Runs every row with every seed, in the order given.
pub fn run(rows: &[Row], scale: Scale) -> Vec<Outcome> {
    let next = Mutex::new(0);
    let outcomes = Mutex::new(vec![Outcome::default(); rows.len()]);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let at = {
                        let mut next = next.lock().expect("no row panics");
                        *next += 1;
                        *next - 1
                    };
                    let Some(row) = rows.get(at) else { break };
                    let outcome = run_row(row, scale.seeds);
                    outcomes.lock().expect("no row panics")[at] = outcome;
                }
            });
        }
    });
    outcomes.into_inner().expect("no row panics")
}

fn run_row(row: &Row, seeds: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut asked, mut waited, mut waited_ms) = (0, 0, 0.0);
    for seed in 1..=seeds {
        let world = World::new(row, seed).run();
        let errors = world.errors();
        outcome.errors.slots += errors.slots;
        outcome.errors.over_units = outcome.errors.over_units.max(errors.over_units);
        outcome.errors.over_most = outcome.errors.over_most.max(errors.over_most);
        outcome.errors.over_mean += errors.over_mean / seeds as f64;
        outcome.errors.refused_wrongly += errors.refused_wrongly / seeds as f64;
        outcome.over_units = outcome.over_units.max(world.oracle.most_allowed().saturating_sub(row.quota));
        asked += world.oracle.asked;
        waited += world.oracle.waited;
        waited_ms += world.oracle.waited_for.as_secs_f64() * 1e3;
        let pairs = row.demand.regions() * (row.demand.regions() - 1);
        outcome.messages += world.messages as f64 / row.length.as_secs_f64() / pairs as f64 / seeds as f64;
    }
    outcome.waited = 100.0 * waited as f64 / asked.max(1) as f64;
    outcome.mean_wait_ms = waited_ms / waited.max(1) as f64;
    outcome
}

/// Per cent of one slot's quota that a single jump of demand may cost: what a short run may be unlucky by.
const NOISE: f64 = 6.0;

/// What of the outcome is outside the row's bands.
pub fn misses(row: &Row, outcome: &Outcome) -> Vec<String> {
    let mut misses = Vec::new();
    let mut check = |what: &str, is: f64, most: f64| {
        if is > most {
            misses.push(format!("{}: {what} is {is:.3}, at most {most:.3} is promised", row.name));
        }
    };
    check("units above the quota in the worst slot", outcome.over_units as f64, row.bands.over_units as f64);
    let noise = NOISE / outcome.errors.slots.max(1) as f64;
    let spared = if row.bands.over_mean > 0.0 { noise } else { 0.0 };
    check("mean above the quota, per cent", 100.0 * outcome.errors.over_mean, row.bands.over_mean + spared);
    let wrongly = 100.0 * outcome.errors.refused_wrongly;
    check("refused wrongly, per cent", wrongly, row.bands.refused_wrongly + noise);
    misses
}

/// The outcomes as Markdown.
pub fn markdown(rows: &[Row], outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "| row | slots | above, mean % | above, worst slot % | refused wrongly % (band) | waited % | mean wait ms |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for (row, outcome) in rows.iter().zip(outcomes) {
        let missed = if misses(row, outcome).is_empty() { "" } else { " **outside its band**" };
        let over_most = 100.0 * outcome.over_units as f64 / row.quota as f64;
        let (over, wrongly) = (100.0 * outcome.errors.over_mean, 100.0 * outcome.errors.refused_wrongly);
        let Outcome { errors, waited, mean_wait_ms, .. } = outcome;
        let _ = writeln!(
            text,
            "| {}{missed} | {} | {over:.2} | {over_most:.1} | {wrongly:.2} (≤ {}) | {waited:.1} | {mean_wait_ms:.0} |",
            row.name, errors.slots, row.bands.refused_wrongly,
        );
    }
    text
}
