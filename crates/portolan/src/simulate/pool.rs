//! Runs seeds of scenarios on a few threads. Decides no more than the order of work; a run is fixed by its scenario and
//! seed, whichever thread takes it.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use portolan_sim::{Options, Report, Runs, Swarm, Verdict};

use super::{arguments::Seeds, gather::Prepared, progress::Progress};

/// Runs every scenario under its seeds. `arguments` are those of the command line that a replay needs.
pub fn run(prepared: &[Prepared], seeds: &Seeds, arguments: &str) -> Vec<Report> {
    let work: Vec<(usize, u64)> = prepared
        .iter()
        .enumerate()
        .flat_map(|(index, one)| {
            let first = seeds.seed.unwrap_or(one.scenario.seed);
            // One seed that is named is the one that is meant.
            let usual = if seeds.seed.is_some() { 1 } else { one.scenario.seeds };
            let count = seeds.seeds.unwrap_or(usual);
            (first..first.saturating_add(count)).map(move |seed| (index, seed))
        })
        .collect();
    let runs: Vec<Mutex<Runs>> = prepared.iter().map(|_| Mutex::default()).collect();
    let length = work.iter().map(|(index, _)| prepared[*index].scenario.length).sum();
    let (next, progress) = (AtomicUsize::new(0), Progress::start(work.len(), length));
    let swarm = if seeds.swarm { " --swarm" } else { "" };
    let arguments = format!("{arguments}{swarm}");
    let threads = seeds.jobs.or_else(|| std::thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(work.len()) {
            scope.spawn(|| {
                while let Some((index, seed)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = &prepared[*index];
                    let mut before = Duration::ZERO;
                    let mut tell = |passed: Duration| {
                        progress.passed(passed.saturating_sub(before));
                        before = passed;
                    };
                    let watched = Options { progress: Some(&mut tell), ..Options::default() };
                    let drawn = seeds.swarm.then(|| Swarm::draw(*seed, &one.scenario, &one.sources));
                    let scenario = drawn.as_ref().unwrap_or(&one.scenario);
                    let outcome = portolan_sim::run_with(scenario, &one.sources, *seed, watched);
                    progress.done(outcome.verdict == Verdict::Pass);
                    runs[*index].lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
                }
            });
        }
    });
    drop(progress);
    let report = |(one, runs): (&Prepared, Mutex<Runs>)| {
        let runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        Report::new(&one.file, &one.scenario.title, arguments.trim_start(), runs).with_terms(&one.sources)
    };
    prepared.iter().zip(runs).map(report).collect()
}
