//! Runs seeds of scenarios on a few threads. Decides no more than the order of work; a run is fixed by its scenario and
//! seed, whichever thread takes it.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use portolan_sim::{Options, Report, Runs, Swarm, Verdict};

use super::{arguments::Seeds, gather::Prepared, progress::Progress};

/// Runs every scenario under its seeds. `arguments` are those of the command line that a replay needs.
pub fn run(prepared: &[Prepared], seeds: &Seeds, arguments: &str) -> Vec<Report> {
    let work = Work::new(prepared, seeds);
    let runs: Vec<Mutex<Runs>> = prepared.iter().map(|_| Mutex::default()).collect();
    let (next, progress) = (AtomicU64::new(0), Progress::start(work.len(), work.length(prepared)));
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = seeds.jobs.map_or(processors, NonZeroUsize::get).min(processors);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(work.len()) {
            scope.spawn(|| {
                while let Some((index, seed)) = work.at(next.fetch_add(1, Ordering::Relaxed)) {
                    let one = &prepared[index];
                    let mut before = Duration::ZERO;
                    let mut tell = |passed: Duration| {
                        progress.passed(passed.saturating_sub(before));
                        before = passed;
                    };
                    let watched = Options { progress: Some(&mut tell), ..Options::default() };
                    let drawn = seeds.swarm.then(|| Swarm::draw(seed, &one.scenario, &one.sources));
                    let scenario = drawn.as_ref().unwrap_or(&one.scenario);
                    let outcome = portolan_sim::run_with(scenario, &one.sources, seed, watched);
                    progress.done(outcome.verdict == Verdict::Pass);
                    runs[index].lock().unwrap_or_else(PoisonError::into_inner).add(outcome);
                }
            });
        }
    });
    drop(progress);
    let report = |(one, runs): (&Prepared, Mutex<Runs>)| {
        let runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        let title = if seeds.swarm { Swarm::title(&one.scenario) } else { one.scenario.title.clone() };
        Report::new(&one.file, &title, arguments, runs).with_terms(&one.sources)
    };
    prepared.iter().zip(runs).map(report).collect()
}

/// Which seeds run: of each scenario the first, and how many. Not listed one by one, since there may be very many.
struct Work(Vec<(u64, u64)>);

impl Work {
    fn new(prepared: &[Prepared], seeds: &Seeds) -> Self {
        Self(prepared.iter().map(|one| seeds_of(one.scenario.seed, one.scenario.seeds, seeds)).collect())
    }

    fn len(&self) -> usize {
        let count = self.0.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// Virtual time of all runs.
    fn length(&self, prepared: &[Prepared]) -> Duration {
        let of = |(one, (_, count)): (&Prepared, &(u64, u64))| {
            one.scenario.length.saturating_mul(u32::try_from(*count).unwrap_or(u32::MAX))
        };
        prepared.iter().zip(&self.0).map(of).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Scenario and seed of a run.
    fn at(&self, mut number: u64) -> Option<(usize, u64)> {
        for (index, (first, count)) in self.0.iter().enumerate() {
            if number < *count {
                return Some((index, first + number));
            }
            number -= count;
        }
        None
    }
}

/// The first seed of a scenario and how many run: as the command line says, else as the file does. The last that there is
/// ends them.
fn seeds_of(first: u64, count: u64, named: &Seeds) -> (u64, u64) {
    let first = named.seed.unwrap_or(first);
    // One seed that is named is the one that is meant.
    let usual = if named.seed.is_some() { 1 } else { count };
    (first, named.seeds.unwrap_or(usual).min((u64::MAX - first).saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_seeds_is_work_without_a_list_of_them() {
        let work = Work(vec![(7, 2), (1, u64::MAX - 1), (5, 1)]);
        let all = [0, 1, 2, 1_000_000_001].map(|number| work.at(number));
        assert_eq!(all, [Some((0, 7)), Some((0, 8)), Some((1, 1)), Some((1, 1_000_000_000))]);
        assert_eq!((work.at(u64::MAX), Work(vec![(7, 2)]).at(2)), (Some((1, u64::MAX - 1)), None));
        assert_eq!(work.len(), usize::MAX);
    }

    #[test]
    fn a_seed_that_is_named_runs_even_if_it_is_the_last_there_is() {
        let of = |seed, seeds| seeds_of(3, 20, &Seeds { seed, seeds, swarm: false, jobs: None });
        assert_eq!([of(None, None), of(Some(7), None), of(Some(7), Some(2))], [(3, 20), (7, 1), (7, 2)]);
        assert_eq!([of(Some(u64::MAX), None), of(Some(u64::MAX - 1), Some(9))], [(u64::MAX, 1), (u64::MAX - 1, 2)]);
    }
}
