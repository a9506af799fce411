//! `portolan up`: a whole fleet on this machine, from certificates to a configuration in force, until Ctrl-C.
//!
//! Decides the order of starting and ending. What runs where is `plan`'s, how children live and die is `children`'s.

mod announce;
mod children;
mod lock;
mod plan;
mod prepare;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portolan_config::RegionMap;
use portolan_model::{Name, Revision};
use portolan_server::api::{ExplainAnswer, StatusAnswer};
use serde_json::{Value, json};

pub use children::end_asked;
pub use plan::Network;
pub use prepare::shipped_jwks;

use self::{children::Process, plan::Plan};
use crate::{
    cli,
    client::Client,
    context::{AdminAddress, Context as Fleet, Overrides},
    dev, fleet, wan,
};

/// Longest wait for all nodes to be ready: certificates, disks and an election take a second or two.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// How often a node that is starting is asked.
const POLL: Duration = Duration::from_millis(50);

/// The operator of a local fleet, as the history names them.
const OPERATOR: &str = "developer";

/// Starts the fleet, says how to use it, and waits for the end.
pub async fn run(arguments: &cli::Up, global: &cli::Global) -> Result<()> {
    let started = Instant::now();
    let prepared = prepare::prepare(arguments, global)?;
    let (plan, regions) = (&prepared.plan, &prepared.regions);
    save_context(plan)?;
    let relay = start_relay(plan, regions, arguments).await?;
    let mut processes = Vec::new();
    let end = end_asked(arguments.exit_with_parent);
    let outcome = tokio::select! {
        outcome = live(plan, &mut processes, started) => outcome,
        outcome = steer(relay.clone(), plan) => outcome,
        () = end => Ok(()),
    };
    eprintln!("ending the fleet");
    children::end_all(&mut processes).await;
    // The ids may soon be those of strangers.
    prepare::forget_processes(plan)?;
    outcome
}

/// Starts the processes, brings the configuration into force, then watches until one of them ends.
async fn live(plan: &Plan, processes: &mut Vec<Process>, started: Instant) -> Result<()> {
    start_processes(plan, processes)?;
    record_processes(plan, processes)?;
    let client = Client::new(&Fleet::load(&plan.dir, &Overrides::default())?)?;
    let statuses = wait_until(&client, processes, "led", |status| status.raft.leader.is_some()).await?;
    let mut revision = statuses.iter().map(|status| status.revision).max().unwrap_or_default();
    if revision == Revision::default() {
        let answer = fleet::apply(&client, &plan.document, None).await.context("the first configuration")?;
        revision = Revision(answer["revision"].as_u64().unwrap_or(1));
    }
    // Each node speaks for itself and must have heard that the others are well: DNS answers from then on name them.
    let serves = |status: &StatusAnswer| {
        let sees_all = status.regions.values().all(|region| matches!(region.state.as_str(), "serving" | "draining"));
        status.ready && status.revision >= revision && sees_all
    };
    let statuses = wait_until(&client, processes, "ready", serves).await?;
    let program = std::env::args().next().unwrap_or_else(|| "portolan".to_owned());
    print!("{}", announce::render(plan, &statuses, &program, runs_sample(&client).await?));
    println!("ready after {:.1} s; Ctrl-C ends the fleet", started.elapsed().as_secs_f64());
    watch(processes).await
}

/// Whether the configuration in force has the routes that the sample does: it may be another document's.
async fn runs_sample(client: &Client) -> Result<bool> {
    for (route, path) in announce::SAMPLE_PATHS {
        let request = json!({ "host": announce::SAMPLE_HOST, "path": path });
        let answer: ExplainAnswer = fleet::typed(&fleet::post(client, "/v1/explain", &request).await?)?;
        if answer.route.is_none_or(|name| name.as_str() != route) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits for all nodes to answer and to satisfy `done`; returns their statuses in the order of the plan.
async fn wait_until(
    client: &Client,
    processes: &mut [Process],
    what: &str,
    done: impl Fn(&StatusAnswer) -> bool,
) -> Result<Vec<StatusAnswer>> {
    let deadline = Instant::now() + READY_WITHIN;
    let mut statuses: Vec<Option<StatusAnswer>> = vec![None; client.nodes().len()];
    loop {
        check_running(processes)?;
        for (index, node) in client.nodes().iter().enumerate() {
            if statuses[index].is_none() {
                statuses[index] = fleet::node_status(&client.only(node)).await.ok().filter(&done);
            }
        }
        if let Some(all) = statuses.iter().cloned().collect::<Option<Vec<StatusAnswer>>>() {
            return Ok(all);
        }
        if Instant::now() > deadline {
            let missing = client.nodes().iter().zip(&statuses).filter(|(_, status)| status.is_none());
            let names: Vec<String> = missing.map(|(node, _)| node.node.to_string()).collect();
            let tails: Vec<String> =
                processes.iter().map(|p| format!("--- {}\n{}", p.log.display(), p.tail())).collect();
            bail!("{} not {what} within {} s\n{}", names.join(", "), READY_WITHIN.as_secs(), tails.join("\n"));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn check_running(processes: &mut [Process]) -> Result<()> {
    for process in processes {
        if let Some(status) = process.ended() {
            bail!(
                "{} ended while starting ({status}); {} says:\n{}",
                process.name,
                process.log.display(),
                process.tail()
            );
        }
    }
    Ok(())
}

/// Reports children that end; a fleet with nothing left to run is over.
async fn watch(processes: &mut [Process]) -> Result<()> {
    let mut ended = vec![false; processes.len()];
    loop {
        for (process, ended) in processes.iter_mut().zip(&mut ended).filter(|(_, ended)| !**ended) {
            if let Some(status) = process.ended() {
                *ended = true;
                eprintln!("{} ended ({status}); its output is in {}", process.name, process.log.display());
            }
        }
        if ended.iter().all(|ended| *ended) {
            bail!("all processes of the fleet have ended");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn start_processes(plan: &Plan, processes: &mut Vec<Process>) -> Result<()> {
    for service in &plan.services {
        let listen = service.listen.to_string();
        let arguments =
            ["demo-service", "--listen", &listen, "--region", service.region.as_str(), "--instance", &service.instance];
        let name = format!("demo service {}", service.instance);
        processes.push(Process::start(&name, &service.log, &arguments.map(std::ffi::OsStr::new))?);
    }
    for node in &plan.nodes {
        let file = node.file();
        let arguments = ["run".as_ref(), "--node".as_ref(), file.as_os_str()];
        processes.push(Process::start(node.node.as_str(), &node.log(), &arguments)?);
    }
    Ok(())
}

/// Writes down which process is which, for those who want to stop or crash one.
fn record_processes(plan: &Plan, processes: &[Process]) -> Result<()> {
    let ids: serde_json::Map<String, Value> =
        processes.iter().map(|process| (process.name.clone(), json!(process.id()))).collect();
    let text = json!({ "up": std::process::id(), "processes": ids });
    dev::write(&plan.processes(), &format!("{text:#}\n"))
}

fn save_context(plan: &Plan) -> Result<()> {
    let nodes = plan
        .nodes
        .iter()
        .map(|node| AdminAddress { node: node.node.clone(), region: node.region.clone(), admin: node.admin() })
        .collect();
    let context = Fleet { ca: "ca.pem".into(), certificate: "operator.pem".into(), key: "operator.key".into(), nodes };
    context.save(&plan.dir)
}

async fn start_relay(plan: &Plan, regions: &RegionMap, arguments: &cli::Up) -> Result<Option<Arc<wan::Relay>>> {
    let Some(base) = plan.relay else { return Ok(None) };
    let sites: Vec<wan::Site> =
        plan.nodes.iter().map(|node| wan::Site { region: node.region.clone(), mesh: node.mesh() }).collect();
    let shape = wan::Shape { loss: arguments.loss, jitter: arguments.jitter, seed: arguments.wan_seed };
    wan::Relay::start(base, &sites, shape, |from, to| regions.rtt(from, to) / 2).await.map(Arc::new).map(Some)
}

async fn steer(relay: Option<Arc<wan::Relay>>, plan: &Plan) -> Result<()> {
    match relay {
        Some(relay) => wan::serve(relay, &plan.dir).await,
        None => std::future::pending().await,
    }
}

/// The operator's name.
fn operator() -> Result<Name> {
    Name::new(OPERATOR).context("an operator name")
}
