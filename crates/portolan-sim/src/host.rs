//! One simulated machine: a disk and a clock that outlive its processes, and the process that runs now.
//!
//! Decides how a process starts and dies, as the production driver does; what it does in between is in `drive`.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Disk, Intent};
use portolan_limits::{Found, MarkLog, Mode, Recovery, Start};
use portolan_model::{HashKey, Name, NodeName, RegionId, Timestamp};
use portolan_node::{Node, NodeConfig, RaftStatus};
use portolan_raft::{MemoryDisk, Raft, RaftConfig, Role, Store};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

use crate::{
    chance,
    clock::{Clock, HostClock},
    link::Link,
    marks::MarkFiles,
    quotas::Quota,
    waiting::Ask,
    wire::{Errand, Life, SimulatedTransport},
    world::{Plan, World},
};

/// How often Raft's state is read, as in production.
const RAFT_POLL: Duration = Duration::from_millis(50);

/// A machine.
pub struct Host {
    /// The node that runs on it.
    pub name: NodeName,
    /// Where it stands.
    pub region: RegionId,
    /// Place of the region in the list of all.
    pub place: usize,
    /// Its civil clock.
    pub clock: HostClock,
    /// Starts so far.
    pub lives: u64,
    /// The process, once Raft has started.
    pub process: Option<Process>,
    /// Whether a process is starting or running.
    pub up: bool,
    /// While its process is stopped: what it would have been told.
    pub paused: Option<Vec<Plan>>,
    /// What its node wants done is carried out at the end of this instant.
    pub stirred: bool,
    /// Requests that wait for its limits.
    pub waiting: Vec<Ask>,
    /// Its limits have asked for attention.
    pub wanted: bool,
    /// When it last went on after it had stood still.
    pub resumed: Timestamp,
    /// While its process is stopped: what its Raft would have said.
    pub held_errands: Vec<Errand>,
    /// By how much everything reaches it late.
    pub slow_by: Option<Duration>,
    /// Raft's disk.
    pub disk: MemoryDisk,
    /// The files of marks.
    pub marks: MarkFiles,
    /// The mode of its limits, as it told last.
    pub mode: Mode,
    /// Its chance.
    pub draws: ChaCha8Rng,
}

/// A running process.
pub struct Process {
    /// The node under test.
    pub node: Node,
    /// Its Raft.
    pub raft: Raft,
    /// When its limits began, if nothing was before it: such a one takes every region for heard at first.
    pub first: Option<Timestamp>,
    /// Where the next mark goes.
    pub marks: MarkLog,
    /// The lenders of its document.
    pub links: BTreeMap<Name, Link>,
    /// What the marks of an earlier process say, until the limits have started.
    found: Option<Found>,
    /// When it is to be woken.
    pub wake_at: Option<Timestamp>,
}

impl Host {
    /// A machine with an empty disk.
    pub fn new(name: NodeName, region: RegionId, place: usize, clock: Clock, seed: u64) -> Self {
        Self {
            clock: HostClock::new(clock, seed, name.as_str()),
            draws: chance::stream(seed, "host", name.as_str()),
            name,
            region,
            place,
            lives: 0,
            process: None,
            up: false,
            paused: None,
            stirred: false,
            waiting: Vec::new(),
            wanted: false,
            resumed: Timestamp::ZERO,
            held_errands: Vec::new(),
            slow_by: None,
            disk: MemoryDisk::new(),
            marks: MarkFiles::default(),
            mode: Mode::Healthy,
        }
    }

    /// Whether a process of it runs and is not stopped.
    pub fn speaks(&self) -> bool {
        self.process.is_some() && self.paused.is_none()
    }

    /// Leaves on the disks what a crash does.
    fn crash_disks(&mut self, disk: Disk) {
        self.disk.crash();
        match disk {
            Disk::Kept => self.marks.drop_unwritten(),
            Disk::Torn => {
                let share = self.draws.random_range(0.0..1.0);
                self.marks.tear_unwritten(share);
            }
            Disk::Lost => {
                self.disk = MemoryDisk::new();
                self.marks = MarkFiles::default();
            }
        }
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
        let clock = place.clock.clone();
        let wall = Arc::new(move || clock.read().wall);
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

    /// Takes a process away at once.
    pub fn crash_host(&mut self, host: usize, disk: Disk) {
        let place = &mut self.hosts[host];
        place.up = false;
        place.lives += 1;
        place.paused = None;
        place.held_errands.clear();
        place.crash_disks(disk);
        if let Some(process) = place.process.take() {
            tokio::spawn(async move { process.raft.shutdown().await });
        }
        self.tally.end_all(host);
        self.note_quotas(host, None);
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
        let now = place.clock.at(self.now);
        self.note_quotas(life.host, Some(&intent));
        let mut node = Node::new(config, Arc::clone(&intent), now);
        // What nobody asks for needs no room: a hundred tables of full size fill gigabytes, and no cache.
        node.set_limit_keys(self.limit_keys);
        node.set_member(raft.member(), now);
        let (marks, found) = MarkLog::recover(self.hosts[life.host].marks.segments());
        let (links, found) = (BTreeMap::new(), Some(found));
        self.hosts[life.host].process = Some(Process { node, raft, first: None, marks, links, found, wake_at: None });
        self.note_hearing();
        self.follow_lenders(life, &intent);
        self.agenda.plan(now.mono, Plan::ReadRaft(life));
        self.start_limits(life.host);
        self.stir(life.host);
    }

    /// The process of a host, if this life of it is still running.
    pub fn process(&mut self, life: Life) -> Option<&mut Process> {
        let host = &mut self.hosts[life.host];
        if host.lives == life.number { host.process.as_mut() } else { None }
    }

    /// Notes which quotas are in force on a host: those of what its process was given last.
    fn note_quotas(&mut self, host: usize, intent: Option<&Intent>) {
        let budgets = intent.into_iter().flat_map(|intent| intent.limits.budgets(&intent.snapshot));
        let quotas = budgets.map(|budget| (budget.binding.id, Quota::of(&budget.algorithm()))).collect();
        self.tally.truth.quotas.take(host, quotas, self.at_ms());
    }

    /// Hands the last applied intent to the node.
    pub fn take_intent(&mut self, life: Life) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        let intent = Arc::clone(&process.raft.intent().borrow());
        process.node.handle_intent(Arc::clone(&intent), now);
        self.follow_lenders(life, &intent);
        self.note_quotas(life.host, Some(&intent));
        self.start_limits(life.host);
        self.stir(life.host);
        self.note_activation();
    }

    /// Hands Raft's state to the node and plans the next reading.
    pub fn read_raft(&mut self, life: Life) {
        let now = self.hosts[life.host].clock.at(self.now);
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
        self.stir(life.host);
    }

    /// Starts the limits as soon as it is known what an earlier process may have spent, and the start is noted.
    fn start_limits(&mut self, host: usize) {
        let place = &mut self.hosts[host];
        let now = place.clock.at(self.now);
        let Some(process) = place.process.as_mut() else { return };
        let incarnation = *process.raft.joined().borrow();
        let noted = process.raft.store().limits_life();
        if noted.is_none() && incarnation.is_none() {
            return;
        }
        let Some(found) = process.found.take() else { return };
        let start = Start::new(found, incarnation.unwrap_or_default(), noted, now.wall);
        let store = process.raft.store().clone();
        if matches!(start.recovery, Recovery::Marks(_)) {
            // An error has stopped Raft, as below.
            let _ = store.note_limits_start_if_possible(start.life);
            process.node.start_limits(start, now);
            return;
        }
        let (errands, life) = (self.errands.clone(), Life { host, number: place.lives });
        tokio::spawn(async move {
            // An error has stopped Raft, and nobody listens once the run is over.
            if store.note_limits_start(start.life).await.is_ok() {
                let _ = errands.send(Errand::LimitsNoted { life, start });
            }
        });
    }

    /// Starts the limits of a process that has noted it.
    pub fn start_limits_noted(&mut self, life: Life, start: Start) {
        let now = self.hosts[life.host].clock.at(self.now);
        let Some(process) = self.process(life) else { return };
        process.first = (start.recovery == Recovery::FirstStart).then_some(now.mono);
        process.node.start_limits(start, now);
        self.stir(life.host);
    }
}
