//! What the scenario does to the fleet: cuts, crashes and the orders of operators.
//!
//! Orders take the way that the command line takes: to a node that is up and, where the cluster has no leader yet, to
//! the next one a second later. An order that may have been applied is never given twice.

use portolan_config::{Action, Applied, Command, Disk, OperatorVerb, ScenarioFault, Target};
use portolan_model::{RegionId, Timestamp};
use portolan_raft::{ProposeError, Role};
use tokio::time::Duration;

use crate::{
    wire::{Errand, Life},
    world::{Plan, World},
};

/// Who the operators of a simulation are in the history.
const AUTHOR: &str = "operator";

/// How often an order is given before the operator goes home, and the pause between.
const MAX_TRIES: u32 = 20;
const RETRY: Duration = Duration::from_secs(1);

/// What is under way.
#[derive(Default)]
pub struct Faults {
    orders: Vec<Order>,
    /// Hosts that a step crashed, by step.
    crashed: Vec<(usize, usize)>,
}

struct Order {
    verb: OperatorVerb,
    tries: u32,
}

impl World<'_> {
    /// Begins a step of the scenario.
    pub fn begin_step(&mut self, step: usize) {
        let at = self.since_zero();
        let scenario = self.scenario;
        match &scenario.steps[step].action {
            Action::Fault(ScenarioFault::Partition(cut)) => {
                self.network.cut(step, cut.clone());
                self.trace.event(at, format_args!("cut off ({cut:?})"));
            }
            Action::Fault(ScenarioFault::Crash { target, disk }) => {
                for host in self.targets(target) {
                    self.trace.event(at, format_args!("`{}` crashes, disk {disk:?}", self.hosts[host].name));
                    self.crash_host(host);
                    self.faults.crashed.push((step, host));
                    if *disk == Disk::Lost {
                        self.hosts[host].replace_disk();
                        let name = self.hosts[host].name.clone();
                        self.oracle.forget_revision(&name);
                    }
                }
            }
            Action::Fault(_) => {}
            Action::Operator(verb) => {
                self.faults.orders.push(Order { verb: verb.clone(), tries: 0 });
                self.give_order(self.faults.orders.len() - 1);
            }
        }
        if !matches!(scenario.steps[step].action, Action::Operator(_)) {
            self.note_fault();
        }
        if let Some(duration) = scenario.steps[step].duration {
            self.plan_at(scenario.steps[step].earliest() + duration, Plan::End(step));
        }
    }

    /// Ends a step that lasted.
    pub fn end_step(&mut self, step: usize) {
        let at = self.since_zero();
        match &self.scenario.steps[step].action {
            Action::Fault(ScenarioFault::Partition(_)) => {
                self.network.heal(step);
                self.trace.event(at, "reachable again");
            }
            Action::Fault(ScenarioFault::Crash { .. }) => {
                let crashed = std::mem::take(&mut self.faults.crashed);
                let (ending, lasting): (Vec<_>, _) = crashed.into_iter().partition(|(of, _)| *of == step);
                self.faults.crashed = lasting;
                for (_, host) in ending {
                    self.trace.event(at, format_args!("`{}` starts again", self.hosts[host].name));
                    self.start_host(host);
                }
            }
            Action::Fault(_) | Action::Operator(_) => {}
        }
        self.note_fault();
    }

    /// Whether some fault outlasts the scenario, so that the fleet need not agree.
    pub fn faults_remain(&self) -> bool {
        let lasting = |step: &portolan_config::Step| {
            let ends = step.duration.map(|duration| step.earliest() + duration);
            !matches!(step.action, Action::Operator(_)) && ends.is_none_or(|end| end > self.scenario.length)
        };
        self.scenario.steps.iter().any(lasting)
    }

    fn targets(&self, target: &Target) -> Vec<usize> {
        let all = 0..self.hosts.len();
        match target {
            Target::Region(region) => {
                all.filter(|&host| self.hosts[host].up && self.hosts[host].region == *region).collect()
            }
            Target::Node(node) => all.filter(|&host| self.hosts[host].up && self.hosts[host].name == *node).collect(),
            Target::Fleet => all.filter(|&host| self.hosts[host].up).collect(),
            Target::Leader => {
                let term_led = |host: &usize| {
                    let status = self.hosts[*host].process.as_ref()?.raft.status();
                    (status.role == Role::Leader).then_some(status.term)
                };
                all.filter(|host| term_led(host).is_some()).max_by_key(term_led).into_iter().collect()
            }
        }
    }

    /// Gives an order to the next node that is up.
    pub fn give_order(&mut self, number: usize) {
        let tries = self.faults.orders[number].tries as usize;
        let up: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].process.is_some()).collect();
        let Some(&host) = up.get(tries % up.len().max(1)) else { return self.order_again(number) };
        let life = Life { host, number: self.hosts[host].lives };
        let verb = self.faults.orders[number].verb.clone();
        if let OperatorVerb::Restore { region } = &verb {
            // Nodes may act on it before the operator hears that they do.
            self.note_drain(region, false);
        }
        let command = self.command(host, &verb);
        let Some(raft) = self.process(life).map(|process| process.raft.clone()) else { return };
        let errands = self.errands.clone();
        tokio::spawn(async move {
            let outcome = raft.propose(command).await;
            // Nobody listens once the run is over.
            let _ = errands.send(Errand::Ordered { order: number, outcome });
        });
    }

    fn command(&self, host: usize, verb: &OperatorVerb) -> Command {
        let at = self.clock.read(self.hosts[host].skew).wall;
        let author = AUTHOR.to_owned();
        match verb {
            OperatorVerb::Apply { file } => {
                let bundle = self.sources.documents.get(file).unwrap_or(&self.sources.gateway).clone();
                Command::Apply { bundle, author, at, expected: None }
            }
            OperatorVerb::Rollback { to } => Command::Rollback { to: *to, author, at },
            OperatorVerb::Drain { region, reason } => {
                let serving = self.serving(host);
                Command::Drain { region: region.clone(), reason: reason.clone(), author, at, serving }
            }
            OperatorVerb::Restore { region } => Command::Restore { region: region.clone(), author, at },
        }
    }

    /// The regions that serve, as the node that takes the order sees it.
    fn serving(&self, host: usize) -> Vec<RegionId> {
        let Some(process) = &self.hosts[host].process else { return Vec::new() };
        let view = process.node.view();
        let serves = |id: &&RegionId| view.states.get(id) == portolan_geodns::RegionState::Serving;
        self.sources.regions.ids().iter().filter(serves).cloned().collect()
    }

    /// An order has an outcome.
    pub fn order_done(&mut self, number: usize, outcome: Result<Applied, ProposeError>) {
        let at = self.since_zero();
        let verb = words(&self.faults.orders[number].verb);
        match outcome {
            Ok(Applied::Accepted { revision }) => {
                self.trace.event(at, format_args!("{verb}: revision {revision}"));
                self.note_acknowledged(revision);
            }
            Ok(applied) => {
                if let (Applied::Drained, OperatorVerb::Drain { region, .. }) =
                    (&applied, &self.faults.orders[number].verb)
                {
                    self.note_drain(&region.clone(), true);
                }
                self.trace.event(at, format_args!("{verb}: {applied:?}"));
                if matches!(applied, Applied::Refused(_)) {
                    self.figures.unacknowledged_orders += 1;
                }
            }
            Err(ProposeError::Timeout { may_have_been_applied: true }) => {
                self.trace.event(at, format_args!("{verb}: no answer, it may have been applied"));
                self.figures.unacknowledged_orders += 1;
            }
            Err(error) => {
                self.trace.event(at, format_args!("{verb}: {error}"));
                self.order_again(number);
            }
        }
    }

    fn order_again(&mut self, number: usize) {
        let order = &mut self.faults.orders[number];
        order.tries += 1;
        if order.tries < MAX_TRIES {
            let now: Timestamp = self.clock.now();
            self.agenda.plan(now + RETRY, Plan::Order(number));
        } else {
            self.figures.unacknowledged_orders += 1;
        }
    }

    /// Puts the scenario's document in force before the scenario begins.
    pub fn order_first_document(&mut self) {
        let verb = OperatorVerb::Apply { file: String::new() };
        self.faults.orders.push(Order { verb, tries: 0 });
        self.give_order(self.faults.orders.len() - 1);
    }
}

fn words(verb: &OperatorVerb) -> String {
    match verb {
        OperatorVerb::Drain { region, .. } => format!("drain {region}"),
        OperatorVerb::Restore { region } => format!("restore {region}"),
        OperatorVerb::Apply { file } if file.is_empty() => "first apply".to_owned(),
        OperatorVerb::Apply { file } => format!("apply {file}"),
        OperatorVerb::Rollback { to } => format!("rollback {to}"),
    }
}
