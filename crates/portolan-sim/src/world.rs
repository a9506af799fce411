//! The simulated world: one queue of plans, one loop, and everything that happens in it.
//!
//! The loop holds no policy: it carries packets, writes and probes at the time the models give, and asks the code under
//! test for every decision. Tasks beside it are those of Raft alone; they reach the world by errands, which are served
//! before time moves on.

use std::collections::BTreeMap;

use portolan_config::Scenario;
use portolan_limits::{MarkSequence, PageWrite};
use portolan_model::{NodeName, Timestamp};
use portolan_node::Class;
use portolan_raft::Response;
use portolan_routing::EndpointId;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Duration, sleep_until},
};

use crate::{
    Sources,
    agenda::Agenda,
    clients::{Ask, Client},
    clock::Clock,
    host::Host,
    network::{Carriage, Departure, Network},
    oracle::Oracle,
    outcome::Figures,
    trace::{Fate, Trace},
    watch::Watch,
    wire::{self, Errand, Errands, Life, Wire},
};

/// Something that will happen.
pub enum Plan {
    /// A packet arrives.
    Arrive { from: usize, to: usize, bytes: Vec<u8> },
    /// A node's timeout.
    Wake(Life),
    /// Raft's state is read.
    ReadRaft(Life),
    /// Marks have reached a disk.
    Synced(Life, MarkSequence, Vec<PageWrite>),
    /// A probe has come back.
    Probed(Life, EndpointId),
    /// A client sends what is due.
    Load(usize),
    /// A request that waited for a mark asks again.
    AskAgain(Ask),
    /// A step of the scenario begins.
    Begin(usize),
    /// A step of the scenario ends.
    End(usize),
    /// An order is given, perhaps again.
    Order(usize),
    /// The oracle looks.
    Observe,
}

/// One run under way.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub sources: &'a Sources,
    pub seed: u64,
    pub clock: Clock,
    pub agenda: Agenda<Plan>,
    pub errands: Errands,
    pub network: Network,
    pub trace: Trace,
    pub oracle: Oracle,
    pub watch: Watch,
    pub figures: Figures,
    pub hosts: Vec<Host>,
    pub clients: Vec<Client>,
    pub faults: crate::faults::Faults,
    calls: BTreeMap<u64, Call>,
    called: u64,
}

/// A call of Raft that waits for its answer.
struct Call {
    caller: Life,
    reply: oneshot::Sender<Response>,
}

/// Calls kept before those whose caller has given up are swept out.
const CALLS_SWEPT_AT: usize = 1024;

impl<'a> World<'a> {
    /// A fleet with one node per region, every disk empty, nothing started.
    pub fn new(scenario: &'a Scenario, sources: &'a Sources, seed: u64) -> (Self, mpsc::UnboundedReceiver<Errand>) {
        let (errands, incoming) = mpsc::unbounded_channel();
        let regions = &sources.regions;
        let host = |region: &portolan_model::RegionId| {
            let name =
                NodeName::new(&format!("{region}-1")).expect("a region's name with two more characters is a name");
            Host::new(name, region.clone(), seed)
        };
        let world = Self {
            scenario,
            sources,
            seed,
            clock: Clock::start(),
            agenda: Agenda::new(),
            errands,
            network: Network::new(regions.clone(), scenario.loss, scenario.jitter, seed),
            trace: Trace::default(),
            oracle: Oracle::new(regions.ids().len()),
            watch: Watch::default(),
            figures: Figures::default(),
            hosts: regions.ids().iter().map(host).collect(),
            clients: Client::all(scenario, sources, seed),
            faults: crate::faults::Faults::default(),
            calls: BTreeMap::new(),
            called: 0,
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
                errand = incoming.recv() => self.run_errand(errand.expect("the world keeps a sender")),
                () = sleep_until(self.clock.instant(next)) => {
                    while let Some(plan) = self.agenda.take_due(self.clock.now()) {
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
        match plan {
            Plan::Arrive { from, to, bytes } => self.arrive(from, to, &bytes),
            Plan::Wake(life) => self.wake(life),
            Plan::ReadRaft(life) => self.read_raft(life),
            Plan::Synced(life, sequence, pages) => self.marks_synced(life, sequence, pages),
            Plan::Probed(life, endpoint) => self.probed(life, endpoint),
            Plan::Load(client) => self.load(client),
            Plan::AskAgain(ask) => self.ask(ask),
            Plan::Begin(step) => self.begin_step(step),
            Plan::End(step) => self.end_step(step),
            Plan::Order(order) => self.give_order(order),
            Plan::Observe => self.observe(),
        }
    }

    fn run_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Call { from, to, request, reply } => {
                let number = self.called;
                self.called += 1;
                if self.calls.len() >= CALLS_SWEPT_AT {
                    self.calls.retain(|_, call| !call.reply.is_closed());
                }
                self.calls.insert(number, Call { caller: from, reply });
                if self.hosts[from.host].lives == from.number {
                    self.send(from.host, &to, Class::Stream, &Wire::Request(number, request));
                }
            }
            Errand::Answer { from, caller, call, response } => {
                if self.hosts[from.host].lives == from.number {
                    let to = self.hosts[caller.host].name.clone();
                    self.send(from.host, &to, Class::Stream, &Wire::Response(call, response));
                }
            }
            Errand::Started { life, raft: Ok(raft) } => self.host_started(life, raft),
            Errand::Started { life, raft: Err(reason) } => {
                let what = format!("`{}` does not start: {reason}", self.hosts[life.host].name);
                self.trace.event(self.since_zero(), what);
            }
            Errand::Applied { life } => self.take_intent(life),
            Errand::FirstStart { life } => self.start_limits_first(life),
            Errand::Ordered { order, outcome } => self.order_done(order, outcome),
        }
    }

    /// Sends a packet on its way.
    pub fn send(&mut self, from: usize, to: &NodeName, class: Class, wire: &Wire) {
        let Some(target) = self.hosts.iter().position(|host| host.name == *to) else { return };
        let bytes = wire::encode(wire);
        let carriage = if class == Class::Datagram { Carriage::Datagram } else { Carriage::Stream };
        let departure = self.network.depart(&self.hosts[from].region, &self.hosts[target].region, carriage);
        let now = self.clock.now();
        match departure {
            Departure::Arrives(after) => self.agenda.plan(now + after, Plan::Arrive { from, to: target, bytes }),
            Departure::Lost => self.note_packet(from, target, &bytes, Fate::Lost),
            Departure::Cut => self.note_packet(from, target, &bytes, Fate::Cut),
        }
    }

    fn arrive(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let fate = if self.network.is_cut(&self.hosts[from].region, &self.hosts[to].region) {
            Fate::Cut
        } else if self.hosts[to].process.is_none() {
            Fate::NoNode
        } else {
            Fate::Delivered
        };
        self.note_packet(from, to, bytes, fate);
        if fate != Fate::Delivered {
            return;
        }
        let life = Life { host: to, number: self.hosts[to].lives };
        match wire::decode(bytes) {
            Wire::Node(message) => {
                let (now, sender) = (self.clock.read(self.hosts[to].skew), self.hosts[from].name.clone());
                if let Some(process) = self.process(life) {
                    // Refusals are ordinary for a moment after a change of limits; the node counts them.
                    let _ = process.node.handle_message(&sender, message, now);
                }
                self.pump(to);
            }
            Wire::Request(call, request) => {
                let Some(caller) = self.calls.get(&call).map(|call| call.caller) else { return };
                let (sender, errands) = (self.hosts[from].name.clone(), self.errands.clone());
                let Some(raft) = self.process(life).map(|process| process.raft.clone()) else { return };
                tokio::spawn(async move {
                    let response = raft.handle(&sender, request).await;
                    // Nobody listens once the run is over.
                    let _ = errands.send(Errand::Answer { from: life, caller, call, response });
                });
            }
            Wire::Response(call, response) => {
                if let Some(call) = self.calls.remove(&call).filter(|call| call.caller == life) {
                    // The caller may have given up.
                    let _ = call.reply.send(response);
                }
            }
        }
    }

    fn note_packet(&mut self, from: usize, to: usize, bytes: &[u8], fate: Fate) {
        let (from, to) = (self.hosts[from].name.as_str(), self.hosts[to].name.as_str());
        self.trace.packet(self.clock.now(), from, to, bytes, fate);
    }

    /// Time since the fleet was ready and the scenario began; zero before.
    pub fn since_zero(&self) -> Timestamp {
        match self.watch.zero {
            Some(zero) => Timestamp::ZERO + self.clock.now().since(zero),
            None => Timestamp::ZERO,
        }
    }

    /// Plans something at a time of the scenario.
    pub fn plan_at(&mut self, at: Duration, plan: Plan) {
        let zero = self.watch.zero.unwrap_or_default();
        self.agenda.plan(zero + at, plan);
    }
}
