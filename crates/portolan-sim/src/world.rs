//! The simulated world: one queue of plans, one loop, and everything that happens in it.
//!
//! The loop holds no policy: it carries packets, writes and probes at the time the models give, and asks the code under
//! test for every decision. Tasks beside it are those of Raft alone; they reach the world by errands, which are served
//! before time moves on.

use std::collections::BTreeMap;

use portolan_config::Scenario;
use portolan_limits::MarkSequence;
use portolan_model::{NodeName, RegionId, Timestamp};
use portolan_node::LIMIT_KEYS;
use portolan_routing::EndpointId;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep_until},
};

use crate::{
    Options, Sources,
    agenda::Agenda,
    clients::{Client, Lasting},
    clock::Clock,
    faults::Faults,
    host::Host,
    lenders::{self, Lenders},
    mail::Mail,
    network::Network,
    oracle::Oracle,
    outcome::Figures,
    recorder::Recorder,
    tally::Tally,
    trace::Trace,
    watch::Watch,
    wire::{Errand, Errands, Life, Wire},
};

/// Something that will happen.
pub enum Plan {
    /// A packet arrives.
    Arrive { from: usize, to: usize, wire: Box<Wire> },
    /// What a host's node wants done is carried out.
    CarryOut(usize),
    /// A node's timeout.
    Wake(Life),
    /// Raft's state is read.
    ReadRaft(Life),
    /// A write of marks has reached a disk, or would have.
    Synced(Life, MarkSequence),
    /// A probe has come back.
    Probed(Life, EndpointId),
    /// A request for a chunk comes to a lender.
    Lend(Box<lenders::Errand>),
    /// A process hears of a lender.
    Lender(Box<lenders::News>),
    /// A client sends what is due.
    Load(usize),
    /// The time is up of requests that wait at a host.
    GiveUp(usize),
    /// An admitted request ends.
    Finish(Box<Lasting>),
    /// A step of the scenario begins.
    Begin(usize),
    /// A step of the scenario ends.
    End(usize),
    /// An order is given, perhaps again.
    Order(usize),
    /// The oracle looks.
    Observe,
    /// Something that reaches a slow node late.
    Late(Box<Plan>),
}

/// One run under way.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub sources: &'a Sources,
    pub options: Options<'a>,
    pub seed: u64,
    pub clock: Clock,
    /// The time by that clock: it stands while things happen.
    pub now: Timestamp,
    pub agenda: Agenda<Plan>,
    pub errands: Errands,
    pub network: Network,
    pub mail: Mail,
    pub lenders: Lenders,
    pub trace: Trace,
    pub oracle: Oracle,
    pub tally: Tally,
    pub watch: Watch,
    pub recorder: Recorder,
    pub figures: Figures,
    /// All regions by name; hosts and counts name them by place.
    pub regions: Vec<RegionId>,
    pub hosts: Vec<Host>,
    pub host_names: BTreeMap<NodeName, usize>,
    /// Hosts of each region.
    pub region_hosts: Vec<Vec<usize>>,
    /// Keys of limits that a node has room for.
    pub limit_keys: usize,
    pub clients: Vec<Client>,
    pub faults: Faults,
}

impl<'a> World<'a> {
    /// A fleet with every disk empty, nothing started.
    pub fn new(
        scenario: &'a Scenario,
        sources: &'a Sources,
        seed: u64,
        options: Options<'a>,
    ) -> (Self, mpsc::UnboundedReceiver<Errand>) {
        let (errands, incoming) = mpsc::unbounded_channel();
        let regions = sources.regions.ids().to_vec();
        let clock = Clock::start();
        let mut hosts = Vec::new();
        let mut region_hosts = Vec::new();
        for (place, region) in regions.iter().enumerate() {
            let first = hosts.len();
            for number in 1..=scenario.nodes_in(region) {
                hosts.push(Host::new(node_name(region, number), region.clone(), place, clock, seed));
            }
            region_hosts.push((first..hosts.len()).collect());
        }
        let nodes = hosts.iter().map(|host| (host.name.clone(), host.region.clone())).collect();
        let world = Self {
            scenario,
            sources,
            options,
            seed,
            clock,
            now: clock.now(),
            agenda: Agenda::new(),
            errands,
            network: Network::new(&sources.regions, nodes, scenario, seed),
            mail: Mail::default(),
            lenders: Lenders::new(&regions, scenario),
            trace: Trace::default(),
            oracle: Oracle::default(),
            tally: Tally::new(&sources.regions, scenario),
            watch: Watch::default(),
            recorder: Recorder::new(&regions, scenario.length),
            figures: Figures::default(),
            host_names: hosts.iter().enumerate().map(|(at, host)| (host.name.clone(), at)).collect(),
            regions,
            hosts,
            region_hosts,
            limit_keys: limit_keys(scenario, sources),
            clients: Client::all(scenario, sources, seed),
            faults: Faults::new(scenario),
        };
        (world, incoming)
    }

    /// Lets the world turn until `done`, which is asked after every observation.
    pub async fn turn(
        &mut self,
        incoming: &mut mpsc::UnboundedReceiver<Errand>,
        mut done: impl FnMut(&mut Self) -> bool,
    ) {
        loop {
            let next = self.agenda.next_at().expect("an observation is always planned");
            tokio::select! {
                biased;
                errand = incoming.recv() => {
                    self.now = self.clock.now();
                    self.run_errand(errand.expect("the world keeps a sender"));
                }
                () = sleep_until(self.clock.instant(next)) => {
                    self.now = self.clock.now();
                    while let Some(plan) = self.agenda.take_due(self.now) {
                        let observed = matches!(plan, Plan::Observe);
                        self.carry_out(plan);
                        if observed && done(self) {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, plan: Plan) {
        if let Some(host) = self.host_of(&plan) {
            if let Some(held) = &mut self.hosts[host].paused {
                held.push(plan);
                return;
            }
            if let Some(by) = self.hosts[host].slow_by {
                self.agenda.plan(self.now + by, Plan::Late(Box::new(plan)));
                return;
            }
        }
        self.carry_out_now(plan);
    }

    fn carry_out_now(&mut self, plan: Plan) {
        match plan {
            Plan::Arrive { from, to, wire } => self.arrive(from, to, *wire),
            Plan::CarryOut(host) => self.carry_out_wishes(host),
            Plan::Wake(life) => self.wake(life),
            Plan::ReadRaft(life) => self.read_raft(life),
            Plan::Synced(life, sequence) => self.marks_synced(life, sequence),
            Plan::Probed(life, endpoint) => self.probed(life, endpoint),
            Plan::Lend(errand) => self.lend(*errand),
            Plan::Lender(news) => self.hear_lender(*news),
            Plan::Load(client) => self.load(client),
            Plan::GiveUp(host) => self.give_up(host),
            Plan::Finish(lasting) => self.finish(&lasting),
            Plan::Begin(step) => self.begin_step(step),
            Plan::End(step) => self.end_step(step),
            Plan::Order(order) => self.give_order(order),
            Plan::Observe => self.observe(),
            Plan::Late(plan) => {
                let paused = self.host_of(&plan).and_then(|host| self.hosts[host].paused.as_mut());
                match paused {
                    Some(held) => held.push(*plan),
                    None => self.carry_out_now(*plan),
                }
            }
        }
    }

    /// The host that a plan is an input of.
    fn host_of(&self, plan: &Plan) -> Option<usize> {
        match plan {
            Plan::Arrive { to, .. } => Some(*to),
            Plan::Lender(news) => Some(news.life.host),
            Plan::Wake(life) | Plan::ReadRaft(life) | Plan::Synced(life, _) | Plan::Probed(life, _) => Some(life.host),
            _ => None,
        }
    }

    /// Gives a host that goes on what it missed, in the order in which it came.
    pub fn resume_host(&mut self, host: usize) {
        self.hosts[host].resumed = self.now;
        let missed = self.hosts[host].paused.take().unwrap_or_default();
        self.note_hearing();
        for plan in missed {
            self.carry_out(plan);
        }
        for errand in std::mem::take(&mut self.hosts[host].held_errands) {
            self.run_errand(errand);
        }
        self.stir(host);
    }

    fn run_errand(&mut self, errand: Errand) {
        let errand = match errand.speaker().filter(|life| self.hosts[life.host].paused.is_some()) {
            Some(life) => return self.hosts[life.host].held_errands.push(errand),
            None => errand,
        };
        match errand {
            Errand::Call { from, to, request, reply } => self.call(from, &to, request, reply),
            Errand::Answer { from, caller, call, response } => self.answer(from, caller, call, response),
            Errand::Started { life, raft: Ok(raft) } => self.host_started(life, raft),
            Errand::Started { life, raft: Err(reason) } => {
                let what = format!("`{}` does not start: {reason}", self.hosts[life.host].name);
                self.note(what);
            }
            Errand::Applied { life } => self.take_intent(life),
            Errand::LimitsNoted { life, start } => self.start_limits_noted(life, start),
            Errand::Ordered { order, outcome } => self.order_done(order, outcome),
        }
    }

    /// Time since the fleet was ready and the scenario began; zero before.
    pub fn since_zero(&self) -> Timestamp {
        match self.watch.zero {
            Some(zero) => Timestamp::ZERO + self.now.since(zero),
            None => Timestamp::ZERO,
        }
    }

    /// The same in milliseconds.
    pub fn at_ms(&self) -> i64 {
        i64::try_from(self.since_zero().as_nanos() / 1_000_000).unwrap_or(i64::MAX)
    }

    /// Plans something at a time of the scenario.
    pub fn plan_at(&mut self, at: Duration, plan: Plan) {
        let zero = self.watch.zero.unwrap_or_default();
        self.agenda.plan(zero + at, plan);
    }

    /// Takes an event down.
    pub fn note(&mut self, what: impl std::fmt::Display) {
        let at = self.since_zero();
        let what = what.to_string();
        self.write_line(at, "event", "", "", &what);
        self.trace.event(at, what);
    }

    /// Hands one line to whoever replays the run.
    pub fn write_line(&mut self, at: Timestamp, kind: &str, from: &str, to: &str, what: &str) {
        if let Some(write) = &mut self.options.write {
            write(&crate::replay::line(at, kind, from, to, what));
        }
    }

    /// The gateway documents of the run, for orders.
    pub fn document(&self, file: &str) -> portolan_config::Bundle {
        self.sources.documents.get(file).unwrap_or(&self.sources.gateway).clone()
    }
}

/// Keys of limits that a node has room for, however few are asked for.
const LEAST_KEYS: usize = 1 << 10;

/// Keys that a node has room for: what the scenario says, else as many as are asked for, so that none is without.
fn limit_keys(scenario: &Scenario, sources: &Sources) -> usize {
    let stated = scenario.limit_keys.map(|keys| usize::try_from(keys).unwrap_or(LIMIT_KEYS));
    stated.unwrap_or_else(|| sources.most_keys(scenario).max(LEAST_KEYS)).min(LIMIT_KEYS)
}

/// The name of a node: that of its region and a number from 1 up.
fn node_name(region: &RegionId, number: u32) -> NodeName {
    let room = 63 - 1 - number.to_string().len();
    let region: String = region.as_str().chars().take(room).collect();
    NodeName::new(&format!("{region}-{number}")).expect("a region's name cut to fit, with a number, is a name")
}
