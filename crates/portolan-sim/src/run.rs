//! One run from first start to verdict.

use portolan_config::{Scenario, Start};
use tokio::{sync::mpsc, time::Duration};

use crate::{
    Sources, chance, expectations,
    outcome::{Invariant, Outcome, Verdict},
    wire::Errand,
    world::{Plan, World},
};

/// Longest first start of a fleet; beyond it the scenario does not begin.
const START_BOUND: Duration = Duration::from_secs(60);

/// How long a fleet stands ready before the scenario begins, so that its first start is not part of it.
const SETTLED_FOR: Duration = Duration::from_secs(5);

/// How long the fleet may take to agree after the last fault where the scenario does not say.
const AGREEMENT_BOUND: Duration = Duration::from_secs(30);

/// How a run is watched.
#[derive(Default)]
pub struct Options<'w> {
    /// Sends every packet through the encoding of real nodes, and holds what is read against what was written. Slower;
    /// the run is the same.
    pub check_codec: bool,
    /// Takes a line for every packet, verdict and event.
    pub write: Option<&'w mut (dyn FnMut(&str) + Send)>,
    /// Is told ten times in a second of virtual time how much of the scenario has passed.
    pub progress: Option<&'w mut (dyn FnMut(Duration) + Send)>,
}

/// Runs `scenario` once. Takes a thread of its own, since Raft's random numbers belong to a thread, and returns when
/// the run is over; may be called from anywhere, also from asynchronous code that can wait.
pub fn run(scenario: &Scenario, sources: &Sources, seed: u64) -> Outcome {
    run_with(scenario, sources, seed, Options::default())
}

/// As [`run`], watched.
pub fn run_with<'a>(scenario: &'a Scenario, sources: &'a Sources, seed: u64, options: Options<'a>) -> Outcome {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime =
                builder.enable_time().start_paused(true).build().expect("a runtime without I/O needs nothing");
            portolan_raft::seed_thread(chance::derived_seed(seed, "raft", ""));
            runtime.block_on(play(scenario, sources, seed, options))
        });
        run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

async fn play<'a>(scenario: &'a Scenario, sources: &'a Sources, seed: u64, options: Options<'a>) -> Outcome {
    let (mut world, mut incoming) = World::new(scenario, sources, seed, options);
    if start(&mut world, &mut incoming).await {
        world.begin();
        for (step, planned) in scenario.steps.iter().enumerate() {
            if let Start::At(at) = planned.start {
                world.plan_at(at, Plan::Begin(step));
            }
        }
        for client in 0..world.clients.len() {
            world.plan_at(Duration::ZERO, Plan::Load(client));
        }
        let elapsed = |world: &World<'_>| Duration::from_nanos(world.since_zero().as_nanos());
        world.turn(&mut incoming, |world| elapsed(world) >= scenario.length).await;
        world.become_quiet();
        let bound = scenario.expect.converged_within.unwrap_or(AGREEMENT_BOUND);
        if !world.faults_remain() {
            let end = scenario.length + bound;
            world.turn(&mut incoming, |world| world.has_settled() || elapsed(world) >= end).await;
            world.judge_agreement(bound);
        }
        world.judge_histories();
    } else {
        let detail = "the fleet did not become ready".to_owned();
        world.oracle.violate(world.since_zero(), Invariant::Converges, detail);
    }
    verdict(world)
}

/// Starts all nodes and puts the first document in force; false when that takes too long.
async fn start(world: &mut World<'_>, incoming: &mut mpsc::UnboundedReceiver<Errand>) -> bool {
    for host in 0..world.hosts.len() {
        world.start_host(host);
    }
    world.order_first_document();
    let now = world.now;
    world.agenda.plan(now, Plan::Observe);
    let late = |world: &World<'_>| world.now.since(now) >= START_BOUND;
    let mut ready_since = None;
    let mut settled = |world: &mut World<'_>| {
        let since = world.is_ready().then(|| *ready_since.get_or_insert(world.now));
        ready_since = since;
        since.is_some_and(|since| world.now.since(since) >= SETTLED_FOR)
    };
    world.turn(incoming, |world| settled(world) || late(world)).await;
    world.is_ready()
}

fn verdict(mut world: World<'_>) -> Outcome {
    world.tally.close();
    let regions: Vec<String> = world.regions.iter().map(ToString::to_string).collect();
    world.figures.virtual_ms = world.since_zero().as_nanos() / 1_000_000;
    world.figures.requests = world.recorder.total();
    world.figures.forwarded_by_region =
        regions.iter().cloned().zip(world.recorder.requests.iter().map(|counts| counts.forwarded)).collect();
    world.figures.limits = world.tally.figures(&regions);
    world.figures.leader_changes = world.oracle.leader_changes();
    world.figures.packets = world.trace.packets;
    world.figures.config_lag_p99_ms = world.config_lag_p99().map(|lag| lag.as_millis() as u64);
    let failed_expectations = expectations::failed(&world);
    let scenario_hash = world.sources.hash(world.scenario);
    let World { oracle, trace, figures, seed, recorder, tally, .. } = world;
    let violations = oracle.into_violations();
    let verdict = match (violations.is_empty(), failed_expectations.is_empty()) {
        (false, _) => Verdict::InvariantBroken,
        (true, false) => Verdict::ExpectationFailed,
        (true, true) => Verdict::Pass,
    };
    let trace_hash = trace.hash();
    Outcome {
        program: env!("CARGO_PKG_VERSION"),
        scenario_hash,
        seed,
        verdict,
        violations,
        failed_expectations,
        figures,
        trace_hash,
        events: trace.into_events(),
        series: recorder.into_series(&tally),
    }
}
