//! The `portolan` program: reads the command line, calls what it names, and turns the outcome into an exit code.
//!
//! Decides exit codes and nothing else: 0 done; 1 refused, faults found or an expectation failed; 2 wrong usage, or an
//! invariant broken in a rehearsal; 3 a bad scenario or a configuration that cannot be rehearsed.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

mod cli;
mod client;
mod context;
mod demo_service;
mod dev;
mod files;
mod fleet;
mod issuer;
mod limits;
mod local;
mod output;
mod pages;
mod plan;
mod probe;
mod render;
mod simulate;
mod up;
mod wan;

use cli::{Cli, Command};

/// What a node logs unless `PORTOLAN_LOG` says otherwise: openraft warns of each vote and repeats an error for each
/// message to a peer that is away (the mesh says it once), hickory tells each query.
const LOG_FILTER: &str = "info,openraft=error,openraft::replication=off,hickory_server=warn";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if !cli.global.output.is_common() && !matches!(cli.command, Command::Simulate(_)) {
        eprintln!("portolan: only `simulate` has this form of output; write --output text or json");
        return ExitCode::from(2);
    }
    if matches!(cli.command, Command::Run(_)) {
        pages::ask_for_large_ones();
    }
    // One provider for every TLS connection of the process; a second installation would only say that it is there.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = runtime.context("cannot start the runtime").and_then(|runtime| {
        let outcome = runtime.block_on(dispatch(&cli));
        // What still runs is background work of a command that is over.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            ExitCode::from(1)
        }
    }
}

async fn dispatch(cli: &Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match &cli.command {
        Command::Up(arguments) => up::run(arguments, global).await?,
        Command::Run(arguments) => run_node(arguments).await?,
        Command::Check(arguments) => return local::run_check(global, arguments),
        Command::Plan(arguments) => plan::run(global, arguments)?,
        Command::Schema => local::run_schema(),
        Command::Apply(arguments) => fleet::run_apply(global, arguments).await?,
        Command::History => fleet::run_history(global).await?,
        Command::Rollback { to } => fleet::run_rollback(global, *to).await?,
        Command::Drain { region, reason } => fleet::run_drain(global, region, reason).await?,
        Command::Restore { region } => fleet::run_restore(global, region).await?,
        Command::Status => fleet::run_status(global).await?,
        Command::Limits { order } => limits::run(global, order.as_ref()).await?,
        Command::Explain(arguments) => fleet::run_explain(global, arguments).await?,
        Command::Simulate(arguments) => return Ok(simulate::run(global, arguments)),
        Command::Probe(arguments) => run_probe(global, arguments).await?,
        Command::Token(arguments) => run_token(global, arguments)?,
        Command::DemoService(arguments) => run_demo_service(arguments).await?,
        Command::Wan { order } => fleet::run_wan(global, order).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_node(arguments: &cli::Run) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTOLAN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(LOG_FILTER));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
    let file = files::source(&arguments.node)?;
    let node = portolan_config::NodeFile::parse(&file).map_err(files::shown)?;
    let folder = arguments.node.parent().unwrap_or(std::path::Path::new(""));
    portolan_server::run(node, folder, up::end_asked(arguments.exit_with_parent))
        .await
        .with_context(|| format!("the node of {} does not run", arguments.node.display()))
}

async fn run_probe(global: &cli::Global, arguments: &cli::Probe) -> Result<()> {
    let probe = probe::Probe {
        url: arguments.url.clone(),
        method: arguments.request.clone(),
        headers: arguments.header.clone(),
        body: arguments.data.clone().map(bytes::Bytes::from),
        resolve: arguments.resolve.clone(),
        ca: arguments.cacert.clone().unwrap_or_else(|| global.dir.join("ca.pem")),
        timeout: arguments.timeout,
    };
    let reply = probe.run().await.with_context(|| format!("{} cannot be reached over HTTP/3", arguments.url))?;
    fleet::print_reply(global.output, &reply);
    Ok(())
}

fn run_token(global: &cli::Global, arguments: &cli::Token) -> Result<()> {
    let grant = issuer::Grant {
        user: arguments.user.clone(),
        issuer: arguments.issuer.clone(),
        audience: arguments.audience.clone(),
        scopes: arguments.scope.clone(),
        validity: arguments.validity,
    };
    println!("{}", issuer::mint(&global.dir, &grant)?);
    Ok(())
}

async fn run_demo_service(arguments: &cli::DemoService) -> Result<()> {
    let identity = demo_service::Identity { region: arguments.region.clone(), instance: arguments.instance.clone() };
    tokio::select! {
        served = demo_service::serve(arguments.listen, identity) => served,
        () = up::end_asked(arguments.exit_with_parent) => Ok(()),
    }
}
