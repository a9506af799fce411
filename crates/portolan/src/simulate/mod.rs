//! `portolan simulate`: rehearses a configuration in virtual time and says what came of it.
//!
//! Decides the exit code: 0 all passed, 1 an expectation failed, 2 an invariant was broken, 3 something cannot be run.
//! What a run means, and how it reads, is `portolan-sim`'s.

mod arguments;
mod gather;
mod pool;
mod progress;

use std::{
    fs,
    io::{BufWriter, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use portolan_sim::{BUILT_IN, Comparison, Outcome, Rehearsal, Report, Runs, Swarm};

pub use self::arguments::Simulate;
use self::arguments::{Diff, One, Order, Rehearse, Scenarios, Setting};
use crate::{
    cli,
    output::{Format, put},
};

/// A scenario that cannot be run, whatever the reason.
const BAD_SCENARIO: u8 = 3;

/// `simulate …`
pub fn run(global: &cli::Global, arguments: &Simulate) -> ExitCode {
    let code = match &arguments.order {
        None => rehearse(global.output, &arguments.rehearse),
        Some(Order::Replay(arguments)) => replay(arguments),
        Some(Order::Shrink(arguments)) => shrink(arguments),
        Some(Order::Diff(arguments)) => diff(global.output, arguments),
        Some(Order::Scenarios(arguments)) => write_scenarios(arguments).map(|()| 0),
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("portolan: {error:#}");
        BAD_SCENARIO
    }))
}

fn rehearse(output: Format, arguments: &Rehearse) -> Result<u8> {
    let files = with_base(&arguments.files, arguments.seeds.swarm);
    let (prepared, errors) = gather::scenarios(&files, &arguments.setting);
    for error in &errors {
        eprintln!("portolan: {error:#}");
    }
    if prepared.is_empty() {
        return Ok(BAD_SCENARIO);
    }
    let reports = pool::run(&prepared, &arguments.seeds, &replay_arguments(&arguments.setting, arguments.seeds.swarm));
    let config = arguments.setting.config.as_ref().map(|path| path.display().to_string());
    let rehearsal = Rehearsal::new(config, reports);
    print(output, &rehearsal);
    if let Some(path) = &arguments.report {
        fs::write(path, rehearsal.to_html())
            .with_context(|| format!("cannot write the report to {}", path.display()))?;
        eprintln!("report: {}", path.display());
    }
    Ok(if errors.is_empty() { rehearsal.verdict.exit_code() } else { BAD_SCENARIO })
}

fn print(output: Format, rehearsal: &Rehearsal) {
    match output {
        Format::Text => {
            let texts: Vec<String> = rehearsal.scenarios.iter().map(Report::to_text).collect();
            put(texts.join("\n"));
        }
        Format::Json => put(format_args!("{}\n", rehearsal.to_json())),
        Format::Junit => put(rehearsal.to_junit()),
        Format::Markdown => put(rehearsal.to_markdown()),
    }
}

/// What a replay line needs beside file and seed, as it was given.
fn replay_arguments(setting: &Setting, swarm: bool) -> String {
    let config = setting.config.as_ref().map(|path| format!("--config {}", path.display()));
    let usual = setting.regions.as_os_str() == "regions";
    let regions = (!usual).then(|| format!("--regions {}", setting.regions.display()));
    let swarm = swarm.then(|| "--swarm".to_owned());
    config.into_iter().chain(regions).chain(swarm).collect::<Vec<_>>().join(" ")
}

/// `simulate replay`: the trace on standard output, the verdict on standard error.
fn replay(arguments: &One) -> Result<u8> {
    let (one, seed) = chosen(arguments)?;
    let mut out = BufWriter::new(std::io::stdout());
    let mut broken = false;
    let outcome = portolan_sim::replay(&one.scenario, &one.sources, seed, &mut |line| {
        // Whoever reads may have seen enough: `… | head`.
        broken = broken || writeln!(out, "{line}").is_err();
    });
    let flushed = broken || out.flush().is_err();
    drop((out, flushed));
    let code = outcome.verdict.exit_code();
    let of_line = replay_arguments(&arguments.setting, arguments.swarm);
    eprint!("{}", report_of(&one, &one.file, &of_line, outcome).to_text());
    Ok(code)
}

/// `simulate shrink`: what is left as a scenario file on standard output, how it fails on standard error.
fn shrink(arguments: &One) -> Result<u8> {
    let (one, seed) = chosen(arguments)?;
    let shrunk = portolan_sim::shrink(&one.scenario, &one.sources, seed, &mut |told| eprintln!("{told}"));
    let Some(mut shrunk) = shrunk else {
        bail!("seed {seed} of {} does not fail: there is nothing to cut down", one.file);
    };
    eprintln!("{} runs; saved as smallest.yaml, what is left fails so:", shrunk.runs);
    let code = shrunk.outcome.verdict.exit_code();
    // Run as it is, it fails as it did here.
    (shrunk.scenario.seed, shrunk.scenario.seeds) = (seed, 1);
    put(shrunk.scenario.render());
    let of_line = replay_arguments(&arguments.setting, false);
    eprint!("{}", report_of(&one, "smallest.yaml", &of_line, shrunk.outcome).to_text());
    Ok(code)
}

/// The scenario and the seed that a call names, drawn where it asks for that.
fn chosen(arguments: &One) -> Result<(gather::Prepared, u64)> {
    let mut one = gather::scenario(&arguments.file, &arguments.setting)?;
    let seed = arguments.seed.unwrap_or(one.scenario.seed);
    if arguments.swarm {
        one.scenario = Swarm::draw(seed, &one.scenario, &one.sources);
    }
    Ok((one, seed))
}

/// What faults are drawn for where no file is named: one load is enough.
fn with_base(files: &[PathBuf], swarm: bool) -> Vec<PathBuf> {
    if swarm && files.is_empty() { vec![PathBuf::from(BUILT_IN).join("steady")] } else { files.to_owned() }
}

fn report_of(one: &gather::Prepared, file: &str, arguments: &str, outcome: Outcome) -> Report {
    let mut runs = Runs::default();
    runs.add(outcome);
    Report::new(file, &one.scenario.title, arguments, runs).with_terms(&one.sources)
}

/// `simulate diff`
fn diff(output: Format, arguments: &Diff) -> Result<u8> {
    let [before, after] = arguments.config.as_slice() else {
        bail!("a comparison takes two documents: --config before.yaml --config after.yaml");
    };
    let setting = |config| Setting { config: Some(config), regions: arguments.regions.clone() };
    let (before, after) = (setting(before.clone()), setting(after.clone()));
    // Built-in scenarios carry the load that the first document asks for, so that both meet the same.
    let files = with_base(&arguments.files, arguments.seeds.swarm);
    let (prepared, errors) = gather::scenarios(&files, &before);
    let changed: Vec<_> = prepared.iter().map(|one| gather::again(one, &after)).collect();
    let (changed, more): (Vec<_>, Vec<_>) = changed.into_iter().partition(Result::is_ok);
    let errors: Vec<_> = errors.into_iter().chain(more.into_iter().filter_map(Result::err)).collect();
    for error in &errors {
        eprintln!("portolan: {error:#}");
    }
    if !errors.is_empty() || prepared.is_empty() {
        return Ok(BAD_SCENARIO);
    }
    let changed: Vec<_> = changed.into_iter().flatten().collect();
    let rehearse = |prepared: &[gather::Prepared], setting: &Setting| {
        let reports = pool::run(prepared, &arguments.seeds, &replay_arguments(setting, arguments.seeds.swarm));
        Rehearsal::new(setting.config.as_ref().map(|path| path.display().to_string()), reports)
    };
    let comparison = Comparison::new(&rehearse(&prepared, &before), &rehearse(&changed, &after));
    match output {
        Format::Text => put(comparison.to_text()),
        Format::Json => put(format_args!("{}\n", comparison.to_json())),
        Format::Markdown => put(comparison.to_markdown()),
        Format::Junit => bail!("a comparison has no JUnit form; write --output text, json or markdown"),
    }
    Ok(comparison.verdict.exit_code())
}

/// `simulate scenarios`
fn write_scenarios(arguments: &Scenarios) -> Result<()> {
    let files = gather::built_in(&arguments.setting)?;
    fs::create_dir_all(&arguments.to).with_context(|| format!("cannot make the folder {}", arguments.to.display()))?;
    for file in files {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let path = arguments.to.join(format!("{name}.yaml"));
        if path.exists() {
            eprintln!("{} is there and stays as it is", path.display());
            continue;
        }
        fs::write(&path, file.text).with_context(|| format!("cannot write {}", path.display()))?;
        put(format_args!("{}\n", path.display()));
    }
    Ok(())
}
