//! `simulate` on the command line: what can be said, and what each word means.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::{Args, Subcommand, value_parser};

const EXAMPLES: &str = "Examples:\n  portolan simulate --config gateway.yaml --regions regions/\n  \
    portolan simulate --config gateway.yaml simulations/*.yaml --seeds 20 --report report.html\n  \
    portolan simulate replay built-in/cut-off --config gateway.yaml --seed 3\n\n\
    Exit codes: 0 all held; 1 an expectation was missed; 2 a rule was broken, or wrong usage; \
    3 a scenario or configuration cannot be run.";

/// `simulate`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct Simulate {
    #[command(subcommand)]
    pub order: Option<Order>,
    #[command(flatten)]
    pub rehearse: Rehearse,
}

/// Runs of scenarios.
#[derive(Debug, Args)]
pub struct Rehearse {
    /// Scenario files, or `built-in/NAME`. With none, the built-in ones run on the gateway document of --config.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub setting: Setting,
    #[command(flatten)]
    pub seeds: Seeds,
    /// Write one page with verdicts, charts and tables that needs nothing beside itself.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// What runs.
#[derive(Clone, Debug, Args)]
pub struct Setting {
    /// Gateway document to rehearse, in place of those that scenarios name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder with the region files of scenarios that name none.
    #[arg(long, default_value = "regions", value_name = "DIR")]
    pub regions: PathBuf,
}

/// Which seeds run, and how.
#[derive(Clone, Debug, Args)]
pub struct Seeds {
    /// How many seeds to run; by default as many as the scenario says.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub seeds: Option<u64>,
    /// The first seed; by default the scenario's.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Draw faults and the shape of the load from each seed, in place of what the scenario has; with no file, for the
    /// load of `built-in/steady`.
    #[arg(long)]
    pub swarm: bool,
    /// Runs at one time; by default, and at most, one for each processor.
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
}

/// What else can be done with scenarios.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Print one run as a trace in fixed columns: every packet, verdict and event.
    Replay(One),
    /// Cut a failing scenario down to the least that still fails, and print it as a scenario file.
    Shrink(One),
    /// Run the same scenarios and seeds under two gateway documents and say what got better or worse.
    Diff(Diff),
    /// Write the built-in scenarios for a gateway document as files to read, keep and change.
    Scenarios(Scenarios),
}

/// One scenario and one seed.
#[derive(Debug, Args)]
pub struct One {
    /// Scenario file, or `built-in/NAME`.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub setting: Setting,
    /// The seed; by default the scenario's.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Draw faults and the shape of the load from the seed, as `simulate --swarm` does.
    #[arg(long)]
    pub swarm: bool,
}

/// `simulate diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// Scenario files, or `built-in/NAME`. With none, the built-in ones, with the load that the first document asks for.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The two gateway documents, before and after.
    #[arg(long, required = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Folder with the region files of scenarios that name none.
    #[arg(long, default_value = "regions", value_name = "DIR")]
    pub regions: PathBuf,
    #[command(flatten)]
    pub seeds: Seeds,
}

/// `simulate scenarios`
#[derive(Debug, Args)]
pub struct Scenarios {
    #[command(flatten)]
    pub setting: Setting,
    /// Folder to write them to; a file that is there is left alone.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
}
