//! `portolan simulate`: rehearses a configuration in virtual time and says what came of it.
//!
//! Decides the exit code: 0 all passed, 1 an expectation failed, 2 an invariant was broken, 3 something cannot be run.
//! What a run means, and how it reads, is `portolan-sim`'s.

mod arguments;
mod gather;
mod pool;
mod progress;

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};
use portolan_sim::Rehearsal;

pub use self::arguments::Simulate;
use self::arguments::{Order, Rehearse, Scenarios, Setting};
use crate::{cli, output::Format};

/// A scenario that cannot be run, whatever the reason.
const BAD_SCENARIO: u8 = 3;

/// `simulate …`
pub fn run(global: &cli::Global, arguments: &Simulate) -> ExitCode {
    let code = match &arguments.order {
        None => rehearse(global.output, &arguments.rehearse),
        Some(Order::Scenarios(arguments)) => write_scenarios(arguments).map(|()| 0),
        Some(_) => Ok(BAD_SCENARIO),
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("portolan: {error:#}");
        BAD_SCENARIO
    }))
}

fn rehearse(output: Format, arguments: &Rehearse) -> Result<u8> {
    let (prepared, errors) = gather::scenarios(&arguments.files, &arguments.setting);
    for error in &errors {
        eprintln!("portolan: {error:#}");
    }
    if prepared.is_empty() {
        return Ok(BAD_SCENARIO);
    }
    let reports = pool::run(&prepared, &arguments.seeds, &replay_arguments(&arguments.setting));
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
            let texts: Vec<String> = rehearsal.scenarios.iter().map(portolan_sim::Report::to_text).collect();
            print!("{}", texts.join("\n"));
        }
        Format::Json => println!("{}", rehearsal.to_json()),
        Format::Junit => print!("{}", rehearsal.to_junit()),
        Format::Markdown => print!("{}", rehearsal.to_markdown()),
    }
}

/// What a replay line needs beside file and seed, as it was given.
fn replay_arguments(setting: &Setting) -> String {
    let config = setting.config.as_ref().map(|path| format!("--config {}", path.display()));
    let usual = setting.regions.as_os_str() == "regions";
    let regions = (!usual).then(|| format!("--regions {}", setting.regions.display()));
    config.into_iter().chain(regions).collect::<Vec<_>>().join(" ")
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
        println!("{}", path.display());
    }
    Ok(())
}
