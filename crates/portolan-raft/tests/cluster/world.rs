//! Three nodes with their disks, an election guard as the node's core has it, and a client that proposes.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use portolan_config::{Applied, Bundle, Change, Command, RegionMap, SourceFile};
use portolan_model::{NodeName, RegionId, WallTime};
use portolan_raft::{MemoryDisk, ProposeError, Raft, RaftConfig, Role, Store, Timing, seed_thread};
use tokio::{task::AbortHandle, time::Instant};

use crate::network::Network;

pub const WORST_RTT: Duration = Duration::from_millis(120);

pub struct World {
    pub network: Network,
    regions: Arc<RegionMap>,
    bootstrap: Vec<NodeName>,
    nodes: BTreeMap<NodeName, Node>,
    reports: Arc<Mutex<Reports>>,
}

struct Node {
    region: RegionId,
    disk: MemoryDisk,
    raft: Option<Raft>,
    guard: Option<AbortHandle>,
}

/// By receiver and sender: when the last report came and whether it told of a live leader.
type Reports = BTreeMap<(NodeName, NodeName), (Instant, bool)>;

/// Runs `test` under a paused clock with all randomness from `seed`.
pub fn simulate<F: Future>(seed: u64, test: impl FnOnce() -> F) -> F::Output {
    seed_thread(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(async { test().await })
}

pub async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn regions() -> Arc<RegionMap> {
    let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
    let files = [
        file("regions/ap-southeast.yaml", include_str!("../../../../regions/ap-southeast.yaml")),
        file("regions/eu-west.yaml", include_str!("../../../../regions/eu-west.yaml")),
        file("regions/us-east.yaml", include_str!("../../../../regions/us-east.yaml")),
        file("regions/rtt.yaml", include_str!("../../../../regions/rtt.yaml")),
        file("regions/networks.yaml", include_str!("../../../../regions/networks.yaml")),
    ];
    Arc::new(RegionMap::parse(&files).expect("the shipped regions load"))
}

/// A document that differs from every other with another `number`.
pub fn document(number: u64, padding: usize) -> Command {
    let text = format!("version: 1\n# {number} {}\n", "x".repeat(padding));
    let document = SourceFile { path: "gateway.yaml".to_owned(), text };
    let bundle = Bundle { document, attachments: BTreeMap::new() };
    Change::Apply { bundle, author: format!("client-{number}"), expected: None }.at(WallTime::default())
}

impl World {
    /// Three pristine nodes, none started.
    pub fn new(seed: u64, loss_percent: u32) -> Self {
        Self::with_nodes(seed, loss_percent, 1)
    }

    /// So many pristine nodes in each of three regions, none started.
    pub fn with_nodes(seed: u64, loss_percent: u32, per_region: usize) -> Self {
        let regions = regions();
        let of_region = |region: &RegionId| {
            let region = region.clone();
            (1..=per_region).map(move |number| {
                let name = NodeName::new(&format!("{region}-{number}")).expect("a name");
                (name, Node { region: region.clone(), disk: MemoryDisk::new(), raft: None, guard: None })
            })
        };
        let nodes: BTreeMap<NodeName, Node> = regions.ids().iter().flat_map(of_region).collect();
        let bootstrap = nodes.keys().cloned().collect();
        Self { network: Network::new(seed, loss_percent), regions, bootstrap, nodes, reports: Arc::default() }
    }

    /// Three nodes that have elected a leader and know each other.
    pub async fn founded(seed: u64, loss_percent: u32) -> Self {
        Self::new(seed, loss_percent).found().await
    }

    /// Starts all nodes and waits until they know each other.
    pub async fn found(self) -> Self {
        let mut world = self;
        world.start_all().await;
        world
            .until(secs(15), "every node has joined", |world| {
                world.names().iter().all(|name| world.raft(name).joined().borrow().is_some())
            })
            .await;
        world
    }

    pub fn names(&self) -> Vec<NodeName> {
        self.bootstrap.clone()
    }

    pub fn raft(&self, name: &NodeName) -> &Raft {
        self.nodes[name].raft.as_ref().expect("the node runs")
    }

    pub fn disk(&self, name: &NodeName) -> &MemoryDisk {
        &self.nodes[name].disk
    }

    pub fn replace_disk(&mut self, name: &NodeName, disk: MemoryDisk) {
        self.nodes.get_mut(name).expect("a node of this world").disk = disk;
    }

    pub async fn start_all(&mut self) {
        for name in self.names() {
            self.start(&name).await;
        }
    }

    pub async fn start(&mut self, name: &NodeName) {
        let regions = Arc::clone(&self.regions);
        self.start_with(name, regions).await;
    }

    /// Starts a node whose region files name other regions than those of the world.
    pub async fn start_with(&mut self, name: &NodeName, regions: Arc<RegionMap>) {
        let config = self.config(name, Arc::clone(&regions));
        let store = Store::open(self.disk(name).clone(), &regions).expect("the store opens");
        let raft = Raft::start(config, store, self.network.transport(name)).await.expect("Raft starts");
        self.network.attach(name, raft.clone());
        let guard = guard(raft.clone(), name.clone(), self.network.clone(), Arc::clone(&self.reports));
        let guard = tokio::spawn(guard).abort_handle();
        let node = self.nodes.get_mut(name).expect("a node of this world");
        (node.raft, node.guard) = (Some(raft), Some(guard));
    }

    pub fn config(&self, name: &NodeName, regions: Arc<RegionMap>) -> RaftConfig {
        RaftConfig {
            me: name.clone(),
            region: self.nodes[name].region.clone(),
            bootstrap: self.bootstrap.clone(),
            regions,
            timing: Timing::for_rtt(WORST_RTT),
            clock: Arc::new(WallTime::default),
        }
    }

    /// Stops a node at once; what it had not synced is lost.
    pub async fn crash(&mut self, name: &NodeName) {
        let node = self.nodes.get_mut(name).expect("a node of this world");
        self.network.detach(name);
        node.disk.crash();
        if let Some(guard) = node.guard.take() {
            guard.abort();
        }
        if let Some(raft) = node.raft.take() {
            raft.shutdown().await;
        }
    }

    /// Waits until `condition` holds, and panics after `most`.
    pub async fn until(&self, most: Duration, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < most, "not within {most:?}: {what}\n{}", self.describe());
            pass(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    /// The node that leads a majority; waits for one.
    pub async fn leader(&self) -> NodeName {
        self.until(secs(20), "there is a live leader", |world| world.live_leader().is_some()).await;
        self.live_leader().expect("waited for above")
    }

    pub fn live_leader(&self) -> Option<NodeName> {
        let leads = |name: &&NodeName| {
            let Some(raft) = &self.nodes[*name].raft else { return false };
            let status = raft.status();
            status.role == Role::Leader && status.leader_is_live
        };
        self.bootstrap.iter().find(leads).cloned()
    }

    pub fn followers(&self, leader: &NodeName) -> Vec<NodeName> {
        self.bootstrap.iter().filter(|name| *name != leader).cloned().collect()
    }

    pub fn revision(&self, name: &NodeName) -> u64 {
        self.raft(name).intent().borrow().revision.0
    }

    /// Every running node has the same revision, at least `least`.
    pub fn converged(&self, least: u64) -> bool {
        let running = self.bootstrap.iter().filter(|name| self.nodes[*name].raft.is_some());
        let revisions: Vec<u64> = running.map(|name| self.revision(name)).collect();
        revisions.iter().all(|revision| *revision >= least && *revision == revisions[0])
    }

    pub fn describe(&self) -> String {
        let line = |name: &NodeName| match &self.nodes[name].raft {
            Some(raft) => format!("{name}: revision {} {:?}\n", self.revision(name), raft.status()),
            None => format!("{name}: stopped\n"),
        };
        self.bootstrap.iter().map(line).collect()
    }
}

/// A node stands only when a majority of the voters, itself included, reported no live leader within the last second.
async fn guard(raft: Raft, me: NodeName, network: Network, reports: Arc<Mutex<Reports>>) {
    let mut ticks = 0u64;
    loop {
        let status = raft.status();
        let now = Instant::now();
        reports.lock().expect("unpoisoned").insert((me.clone(), me.clone()), (now, status.leader_is_live));
        if ticks.is_multiple_of(4) {
            for peer in status.voters.iter().filter(|voter| **voter != me).cloned() {
                let (network, me, reports) = (network.clone(), me.clone(), Arc::clone(&reports));
                let live = status.leader_is_live;
                tokio::spawn(async move {
                    if network.send(&me, &peer, &[u8::from(live)]).await {
                        reports.lock().expect("unpoisoned").insert((peer, me), (Instant::now(), live));
                    }
                });
            }
        }
        let leaderless = |voter: &&NodeName| {
            let reports = reports.lock().expect("unpoisoned");
            let report = reports.get(&(me.clone(), (*voter).clone()));
            report.is_some_and(|(at, live)| !live && now.duration_since(*at) <= Duration::from_secs(1))
        };
        let silent = status.voters.iter().filter(leaderless).count();
        raft.set_eligible(!status.voters.is_empty() && silent > status.voters.len() / 2);
        ticks += 1;
        pass(Duration::from_millis(50)).await;
    }
}

/// What clients were told, and who led which term.
#[derive(Clone, Default)]
pub struct Oracle {
    shared: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    acknowledged: BTreeMap<u64, String>,
    leaders: BTreeMap<u64, NodeName>,
    uncertain: u64,
    refused: u64,
}

impl Oracle {
    /// Proposes through `via` every 50 ms, in parallel, until aborted.
    pub fn propose_from(&self, world: &World, via: &NodeName, first: u64) -> AbortHandle {
        let (raft, shared) = (world.raft(via).clone(), Arc::clone(&self.shared));
        let client = async move {
            for number in first.. {
                let (raft, shared) = (raft.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let outcome = raft.propose(document(number, 0)).await;
                    let mut seen = shared.lock().expect("unpoisoned");
                    match outcome {
                        Ok(Applied::Accepted { revision }) => {
                            let known = seen.acknowledged.insert(revision.0, format!("client-{number}"));
                            assert_eq!(known, None, "revision {revision} was acknowledged twice");
                        }
                        Ok(other) => panic!("{other:?}"),
                        Err(ProposeError::Timeout { .. }) => seen.uncertain += 1,
                        Err(_) => seen.refused += 1,
                    }
                });
                pass(Duration::from_millis(50)).await;
            }
        };
        tokio::spawn(client).abort_handle()
    }

    /// Checks that no term has two leaders, as long as the world runs.
    pub fn watch_terms(&self, world: &World) {
        for name in world.names() {
            let (raft, shared) = (world.raft(&name).clone(), Arc::clone(&self.shared));
            tokio::spawn(async move {
                loop {
                    let status = raft.status();
                    if status.role == Role::Leader {
                        let mut seen = shared.lock().expect("unpoisoned");
                        let leader = seen.leaders.entry(status.term).or_insert_with(|| name.clone());
                        assert_eq!(*leader, name, "term {} has two leaders", status.term);
                    }
                    pass(Duration::from_millis(5)).await;
                }
            });
        }
    }

    pub fn acknowledged(&self) -> usize {
        self.shared.lock().expect("unpoisoned").acknowledged.len()
    }

    pub fn last_acknowledged(&self) -> u64 {
        self.shared.lock().expect("unpoisoned").acknowledged.keys().next_back().copied().unwrap_or_default()
    }

    /// Every acknowledged revision that the history still keeps is there, by the author it was acknowledged to.
    pub fn check_history(&self, world: &World) {
        let seen = self.shared.lock().expect("unpoisoned");
        for name in world.names() {
            let intent = world.raft(&name).intent().borrow().clone();
            let kept: BTreeMap<u64, String> =
                intent.history().iter().map(|entry| (entry.revision.0, entry.author.clone())).collect();
            let oldest = kept.keys().next().copied().unwrap_or_default();
            for (revision, author) in seen.acknowledged.range(oldest..) {
                assert_eq!(kept.get(revision), Some(author), "{name} lost revision {revision}");
            }
        }
    }
}
