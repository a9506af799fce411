//! `portolan simulate`: reads scenarios with all they refer to, runs them under a range of seeds, prints the reports.
//!
//! Decides the exit code: 0 all passed, 1 an expectation failed, 2 an invariant was broken, 3 a scenario is bad. What a
//! run means is `portolan-sim`'s.

use std::{
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use portolan_config::{RegionSource, Scenario};
use portolan_sim::{Outcome, Report, Runs, SourceError, Sources};
use serde_json::Value;

use crate::{cli, files, output::Format};

/// A scenario that cannot be run, whatever the reason.
const BAD_SCENARIO: u8 = 3;

/// `simulate FILE…`
pub fn run(global: &cli::Global, arguments: &cli::Simulate) -> ExitCode {
    let mut reports = Vec::new();
    let mut code = 0;
    for path in &arguments.files {
        match rehearse(path, arguments) {
            Ok(report) => {
                code = code.max(report.verdict.exit_code());
                if global.output == Format::Text {
                    println!("{}", report.to_text());
                }
                reports.push(report);
            }
            Err(error) => {
                eprintln!("portolan: {error:#}");
                code = BAD_SCENARIO;
            }
        }
    }
    if global.output == Format::Json {
        let reports: Vec<Value> = reports.iter().filter_map(|report| serde_json::to_value(report).ok()).collect();
        println!("{:#}", Value::from(reports));
    }
    ExitCode::from(code)
}

fn rehearse(path: &Path, arguments: &cli::Simulate) -> Result<Report> {
    let scenario = Scenario::parse(&files::source(path)?).map_err(files::shown)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let regions = match &scenario.regions {
        RegionSource::Inline(map) => Arc::clone(map),
        RegionSource::Directory(own) => files::regions(&folder.join(own))?,
        RegionSource::Unstated => files::regions(&arguments.regions)?,
    };
    let mut read = |name: &str| {
        let file = files::source(&folder.join(name)).map_err(|error| format!("{:#}", error.root_cause()))?;
        Ok(file.text)
    };
    let sources = Sources::gather(&scenario, regions, &mut read).map_err(|error| match error {
        SourceError::Faults(faults) => files::shown(faults),
        other => anyhow::Error::new(other),
    });
    let sources = sources.with_context(|| format!("{} cannot be run", path.display()))?;
    let mut runs = Runs::default();
    run_seeds(&scenario, &sources, arguments.seed, arguments.seeds).into_iter().for_each(|outcome| runs.add(outcome));
    Ok(Report::new(&path.display().to_string(), &scenario.title, "", runs).with_terms(&sources))
}

/// Runs `count` seeds from `first` on as many threads as there are processors; outcomes are in the order of the seeds.
fn run_seeds(scenario: &Scenario, sources: &Sources, first: u64, count: u64) -> Vec<Outcome> {
    let next = AtomicU64::new(first);
    let end = first.saturating_add(count);
    let outcomes = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let outcome = portolan_sim::run(scenario, sources, seed);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|outcome| outcome.seed);
    outcomes
}
