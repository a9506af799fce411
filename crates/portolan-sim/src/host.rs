//! One simulated machine: a disk that outlives its processes, and the process that runs now.
//!
//! Drives [`Node`] as the production driver does, with the world's network, disk and clock in place of real ones.

use std::{collections::BTreeMap, sync::Arc};

use portolan_limits::{Found, MarkLog, MarkSequence, PageWrite, Recovery, SEGMENT_LEN};
use portolan_model::{HashKey, NodeName, RegionId, Timestamp};
use portolan_node::{Event, Node, NodeConfig, RaftStatus, Transmit};
use portolan_raft::{MemoryDisk, Raft, RaftConfig, Role, Store};
use portolan_routing::ProbeOutcome;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

use crate::{
    chance, clock,
    wire::{Errand, Life, SimulatedTransport, Wire},
    world::{Plan, World},
};

/// How often Raft's state is read, as in production.
const RAFT_POLL: Duration = Duration::from_millis(50);

/// Time a durable write of marks takes: from a good disk to a busy one.
const SYNC: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

/// What a probe takes besides the round trip.
const PROBE_COST: Duration = Duration::from_millis(1);

/// A machine.
pub struct Host {
    /// The node that runs on it.
    pub name: NodeName,
    /// Where it stands.
    pub region: RegionId,
    /// How far its civil clock is ahead.
    pub skew: Duration,
    /// Starts so far.
    pub lives: u64,
    /// The process, once Raft has started.
    pub process: Option<Process>,
    /// Whether a process is starting or running.
    pub up: bool,
    disk: MemoryDisk,
    marks: MarkFiles,
    draws: ChaCha8Rng,
}

/// A running process.
pub struct Process {
    /// The node under test.
    pub node: Node,
    /// Its Raft.
    pub raft: Raft,
    /// When it began to serve.
    pub started: Timestamp,
    marks: MarkLog,
    /// What the marks of an earlier process say, until the limits have started.
    found: Option<Found>,
    wake_at: Option<Timestamp>,
}

impl Host {
    /// A machine with an empty disk.
    pub fn new(name: NodeName, region: RegionId, seed: u64) -> Self {
        let skew = clock::skew(seed, name.as_str());
        let draws = chance::stream(seed, "host", name.as_str());
        let (disk, marks) = (MemoryDisk::new(), MarkFiles::default());
        Self { name, region, skew, lives: 0, process: None, up: false, disk, marks, draws }
    }

    /// Puts an empty disk in.
    pub fn replace_disk(&mut self) {
        self.disk = MemoryDisk::new();
        self.marks = MarkFiles::default();
    }
}

impl World<'_> {
    /// Starts a process on a host; the world hears of it by an errand.
    pub fn start_host(&mut self, host: usize) {
        let bootstrap = self.hosts.iter().map(|host| host.name.clone()).collect();
        let place = &mut self.hosts[host];
        place.lives += 1;
        place.up = true;
        let life = Life { host, number: place.lives };
        let (name, region, disk) = (place.name.clone(), place.region.clone(), place.disk.clone());
        let (clock, skew) = (self.clock, place.skew);
        let wall = Arc::new(move || clock.read(skew).wall);
        let config = RaftConfig::new(name, region, bootstrap, Arc::clone(&self.sources.regions), wall);
        let errands = self.errands.clone();
        let transport = SimulatedTransport { life, errands: errands.clone() };
        tokio::spawn(async move {
            let raft = match Store::open(disk, &config.regions) {
                Ok(store) => Raft::start(config, store, transport).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            // Nobody listens once the run is over.
            let _ = errands.send(Errand::Started { life, raft });
        });
    }

    /// Takes a process away at once; its disk keeps what was made durable.
    pub fn crash_host(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        place.up = false;
        place.lives += 1;
        place.disk.crash();
        if let Some(process) = place.process.take() {
            tokio::spawn(async move { process.raft.shutdown().await });
        }
    }

    /// Raft of a host runs: the node can begin.
    pub fn host_started(&mut self, life: Life, raft: Raft) {
        if self.hosts[life.host].lives != life.number {
            tokio::spawn(async move { raft.shutdown().await });
            return;
        }
        let mut applied = raft.intent();
        let intent = Arc::clone(&applied.borrow_and_update());
        let errands = self.errands.clone();
        tokio::spawn(async move {
            while applied.changed().await.is_ok() && errands.send(Errand::Applied { life }).is_ok() {}
        });
        let peers: BTreeMap<_, _> = self.hosts.iter().map(|host| (host.name.clone(), host.region.clone())).collect();
        let place = &self.hosts[life.host];
        let config = NodeConfig {
            name: place.name.clone(),
            region: place.region.clone(),
            regions: Arc::clone(&self.sources.regions),
            peers,
            hash_key: HashKey::new([7; 16]),
            seed: chance::derived_seed(self.seed, "node", &format!("{} {}", place.name, life.number)),
        };
        let now = self.clock.read(place.skew);
        let mut node = Node::new(config, intent, now);
        node.set_member(raft.member(), now);
        let (marks, found) = MarkLog::recover(self.hosts[life.host].marks.segments.each_ref().map(Vec::as_slice));
        self.hosts[life.host].process =
            Some(Process { node, raft, started: now.mono, marks, found: Some(found), wake_at: None });
        self.agenda.plan(now.mono, Plan::ReadRaft(life));
        self.start_limits(life.host);
        self.pump(life.host);
    }

    /// Its limits have asked for attention.
    pub fn attend(&mut self, host: usize) {
        let now = self.clock.read(self.hosts[host].skew);
        if let Some(process) = &mut self.hosts[host].process {
            process.node.handle_timeout(now);
        }
        self.pump(host);
    }

    /// The process of a host, if this life of it is still running.
    pub fn process(&mut self, life: Life) -> Option<&mut Process> {
        let host = &mut self.hosts[life.host];
        if host.lives == life.number { host.process.as_mut() } else { None }
    }

    /// Hands the last applied intent to the node.
    pub fn take_intent(&mut self, life: Life) {
        let now = self.clock.read(self.hosts[life.host].skew);
        let Some(process) = self.process(life) else { return };
        let intent = Arc::clone(&process.raft.intent().borrow());
        process.node.handle_intent(intent, now);
        self.start_limits(life.host);
        self.pump(life.host);
        self.note_activation();
    }

    /// Hands Raft's state to the node and plans the next reading.
    pub fn read_raft(&mut self, life: Life) {
        let now = self.clock.read(self.hosts[life.host].skew);
        let Some(process) = self.process(life) else { return };
        let status = process.raft.status();
        let is_leader = status.role == Role::Leader;
        process.node.handle_raft_status(
            RaftStatus {
                leader: status.leader.as_ref().map(|(member, _)| *member),
                leader_is_live: status.leader_is_live,
                is_leader,
                term: status.term,
                voters: status.voters,
            },
            now,
        );
        if is_leader {
            self.note_leader(life.host, status.term, status.member);
        }
        self.start_limits(life.host);
        self.agenda.plan(now.mono + RAFT_POLL, Plan::ReadRaft(life));
        self.pump(life.host);
    }

    /// Starts the limits as soon as it is known what an earlier process may have spent: from its marks, or from how
    /// often Raft saw the region begin without them.
    fn start_limits(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        let now = self.clock.read(place.skew);
        let Some(process) = place.process.as_mut() else { return };
        let incarnation = *process.raft.joined().borrow();
        let store = process.raft.store();
        let recovery = match (process.found.take(), incarnation) {
            (None, _) => return,
            (Some(Found::Marks(marks)), _) => Recovery::Marks(marks),
            (Some(Found::Nothing), Some(incarnation)) if store.is_first_start(incarnation) => {
                let (store, errands, life) = (store.clone(), self.errands.clone(), Life { host, number: place.lives });
                tokio::spawn(async move {
                    // An error has stopped Raft, and nobody listens once the run is over.
                    if store.mark_limits_started().await.is_ok() {
                        let _ = errands.send(Errand::FirstStart { life });
                    }
                });
                return;
            }
            (Some(Found::Nothing), None) if !store.limits_started() => {
                process.found = Some(Found::Nothing);
                return;
            }
            (Some(Found::Nothing | Found::Damaged { .. }), _) => Recovery::Lost,
        };
        process.node.start_limits(recovery, now);
    }

    /// Starts the limits of a region that never existed, which is noted.
    pub fn start_limits_first(&mut self, life: Life) {
        let now = self.clock.read(self.hosts[life.host].skew);
        let Some(process) = self.process(life) else { return };
        process.node.start_limits(Recovery::FirstStart, now);
        self.pump(life.host);
    }

    /// Carries out everything the node asks for, and plans its next waking.
    pub fn pump(&mut self, host: usize) {
        let life = Life { host, number: self.hosts[host].lives };
        let now = self.clock.now();
        loop {
            let Some(process) = self.process(life) else { return };
            if let Some(transmit) = process.node.poll_transmit() {
                let Transmit { to, class, message } = transmit;
                self.send(host, &to, class, &Wire::Node(message));
            } else if let Some(write) = process.node.poll_marks() {
                let pages = process.marks.append(&write);
                let place = &mut self.hosts[host];
                // One write at a time, as a file has them.
                let begin = place.marks.busy_until.max(now);
                place.marks.busy_until = begin + place.draws.random_range(SYNC.0..SYNC.1);
                self.agenda.plan(place.marks.busy_until, Plan::Synced(life, write.sequence, pages));
            } else if let Some(request) = process.node.poll_probe() {
                let view = process.node.view();
                let Some(endpoint) = view.board.endpoint(request.endpoint, now) else { continue };
                let rtt = self.sources.regions.rtt(&self.hosts[host].region, endpoint.region);
                self.agenda.plan(now + rtt + PROBE_COST, Plan::Probed(life, request.endpoint));
            } else if let Some(event) = process.node.poll_event() {
                self.handle_event(host, event);
            } else {
                break;
            }
        }
        self.plan_waking(life);
    }

    fn plan_waking(&mut self, life: Life) {
        let now = self.clock.now();
        let Some(process) = self.process(life) else { return };
        let Some(at) = process.node.poll_timeout() else { return };
        // Tokio's clock has whole milliseconds; a timeout of this very moment waits for the next.
        let at = at.max(now + Duration::from_millis(1));
        if process.wake_at.is_none_or(|planned| at < planned || planned <= now) {
            process.wake_at = Some(at);
            self.agenda.plan(at, Plan::Wake(life));
        }
    }

    /// The node's timeout, or a call for attention by its limits.
    pub fn wake(&mut self, life: Life) {
        let now = self.clock.read(self.hosts[life.host].skew);
        let Some(process) = self.process(life) else { return };
        // A later plan that was overtaken by an earlier one finds nothing to do.
        if process.wake_at.is_some_and(|at| at > now.mono) {
            return;
        }
        process.wake_at = None;
        process.node.handle_timeout(now);
        self.pump(life.host);
    }

    /// Marks have reached the disk.
    pub fn marks_synced(&mut self, life: Life, sequence: MarkSequence, pages: Vec<PageWrite>) {
        let place = &mut self.hosts[life.host];
        let now = self.clock.read(place.skew);
        if place.lives != life.number {
            return;
        }
        place.marks.write(pages);
        if let Some(process) = &mut place.process {
            process.node.handle_durable(sequence, now);
        }
        self.pump(life.host);
    }

    /// A probe has come back; endpoints of a simulation do not fail.
    pub fn probed(&mut self, life: Life, endpoint: portolan_routing::EndpointId) {
        let now = self.clock.read(self.hosts[life.host].skew);
        let Some(process) = self.process(life) else { return };
        process.node.handle_probe(endpoint, ProbeOutcome::Success, now);
        self.pump(life.host);
    }

    fn handle_event(&mut self, host: usize, event: Event) {
        let name = self.hosts[host].name.clone();
        let at = self.since_zero();
        match event {
            Event::EligibleForElection(eligible) => {
                if let Some(process) = &self.hosts[host].process {
                    process.raft.set_eligible(eligible);
                }
            }
            Event::RegionDown { region } => self.trace.event(at, format_args!("`{name}` finds {region} down")),
            Event::RegionUp { region } => self.trace.event(at, format_args!("`{name}` finds {region} up again")),
            Event::Ready(true) => self.trace.event(at, format_args!("`{name}` is ready")),
            Event::Ready(false) => self.trace.event(at, format_args!("`{name}` is not ready")),
            Event::Limits(portolan_limits::Event::Mode { mode }) => {
                self.trace.event(at, format_args!("limits of `{name}` are {mode:?}"));
            }
            _ => {}
        }
    }
}

/// The two files of durable marks: only what was synced, and when the last sync ends.
#[derive(Default)]
struct MarkFiles {
    segments: [Vec<u8>; 2],
    busy_until: Timestamp,
}

impl MarkFiles {
    fn write(&mut self, pages: Vec<PageWrite>) {
        for page in pages {
            let segment = &mut self.segments[page.segment];
            segment.resize(SEGMENT_LEN, 0);
            let start = usize::try_from(page.offset).expect("a segment is far smaller than memory");
            segment[start..start + page.bytes.len()].copy_from_slice(&page.bytes);
        }
    }
}
