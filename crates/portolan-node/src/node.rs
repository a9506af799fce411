//! The composed node: inputs in; messages, probes, marks and events out.
//!
//! Decides which part an input goes to and when a new [`View`] is due. The parts decide everything else.

mod duties;
mod leases;
mod lending;
mod ownership;
mod report;
mod splits;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use portolan_config::{Command, Intent, Leases, RegionMap};
use portolan_geodns::RegionStates;
use portolan_gossip::{Gossip, GossipConfig};
use portolan_limits::{Limits, LimitsConfig, MarkSequence, MarkWrite, Recovery, Rejected, Start};
use portolan_model::{ByteSize, HashKey, NodeName, Now, RegionId, Timestamp, WallTime};
use portolan_routing::{EndpointId, ProbeOutcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use crate::{
    Class, Counts, Event, LeaderSight, MAX_DATAGRAM, MAX_PEERS, Message, NodeFacts, ProbeRequest, RaftStatus, Transmit,
    View,
    compiled::{Compiled, definitions},
    election::ElectionGuard,
    facts::{self, Known},
    neighbours::Neighbours,
    node::{ownership::Ownership, splits::Splits},
    presence::{Evidence, Liveness, Presence},
    probes::ProbeSchedule,
    rosters::RosterWatch,
};

/// How often a node tells all others that it lives.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_millis(200);

/// Silence after which a near neighbour is reported as stale: five heartbeats.
pub const STALE_AFTER: Duration = Duration::from_secs(1);

/// What a node knows before it hears anyone.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub name: NodeName,
    /// The region it serves.
    pub region: RegionId,
    /// All regions of the cluster.
    pub regions: Arc<RegionMap>,
    /// The other nodes with the regions they serve; this node may be among them.
    pub peers: BTreeMap<NodeName, RegionId>,
    /// Secret of the cluster for hashing keys of limits.
    pub hash_key: HashKey,
    /// Fixes every random choice.
    pub seed: u64,
}

/// Why a message was not taken. Count it; the connection may stay.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The sender is no node of this configuration. Nothing changed.
    #[error("`{from}` is not a node of this cluster's configuration")]
    UnknownSender {
        /// The sender.
        from: NodeName,
    },
    /// Gossip refused it; facts that stood before the fault are kept.
    #[error("gossip refused a message of `{from}`")]
    Gossip {
        /// The sender.
        from: NodeName,
        /// Why.
        source: portolan_gossip::Refused,
    },
    /// The limits refused it; nothing changed. Ordinary for a moment after a change of limits.
    #[error("the limits refused a message of `{from}`")]
    Limits {
        /// The sender.
        from: NodeName,
        /// Why.
        source: Rejected,
    },
}

/// One node. A driver owns it and runs:
///
/// ```text
/// loop {
///     while let Some(transmit) = node.poll_transmit() { send(transmit) }
///     while let Some(write) = node.poll_marks()       { write durably, then node.handle_durable(sequence, now) }
///     while let Some(probe) = node.poll_probe()       { probe, then node.handle_probe(endpoint, outcome, now) }
///     while let Some(event) = node.poll_event()       { raft.set_eligible(..), log, dial anew }
///     while let Some(command) = node.poll_proposal()  { raft.propose(command), whatever comes of it }
///     if node.view_version() != published             { publish node.view() }
///     wait for the first of: node.poll_timeout(), a message, an intent, a Raft status, an outcome, a durable write,
///     a worker's call for attention; hand it in with the time. `handle_timeout` may be called at any time.
/// }
/// ```
pub struct Node {
    config: NodeConfig,
    region_list: u64,
    started: WallTime,
    intent: Arc<Intent>,
    gossip: Gossip,
    limits: Limits,
    limits_started: bool,
    limit_keys: usize,
    ownership: Ownership,
    neighbours: Neighbours,
    presence: Presence,
    rosters: RosterWatch,
    liveness: Liveness,
    guard: ElectionGuard,
    probes: ProbeSchedule,
    rng: ChaCha8Rng,
    /// What other nodes published last, decoded.
    known: BTreeMap<NodeName, Known>,
    /// What they say of each region, and until when they do.
    said_of_regions: Option<(Vec<Evidence>, Timestamp)>,
    heartbeats: BTreeMap<NodeName, LastHeartbeat>,
    /// Peers reported as stale.
    stale: BTreeSet<NodeName>,
    compiled: Compiled,
    states: RegionStates,
    ready: bool,
    eligible: bool,
    view: Arc<View>,
    heartbeats_sent: u64,
    reported: LeaderSight,
    published: Option<NodeFacts>,
    next_tick: Timestamp,
    next_heartbeat: Timestamp,
    next_publication: Timestamp,
    outbox: VecDeque<Transmit>,
    proposals: VecDeque<Command>,
    splits: Splits,
    /// When a renewal of leases was proposed last.
    renewed: Option<Timestamp>,
    events: VecDeque<Event>,
    counts: Counts,
}

/// The newest heartbeat of a peer.
struct LastHeartbeat {
    started: WallTime,
    sequence: u64,
    received: Timestamp,
    sent: WallTime,
    clock_offset_ms: i64,
}

impl Node {
    /// Starts with the last known intent. Limits refuse until [`Node::start_limits`].
    pub fn new(mut config: NodeConfig, intent: Arc<Intent>, now: Now) -> Self {
        config.peers.remove(&config.name);
        let kept = config.peers.into_iter().take(MAX_PEERS);
        config.peers = kept.collect();
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        let names = config.peers.keys().cloned().collect();
        let gossip = Gossip::new(GossipConfig { name: config.name.clone(), peers: names }, now, rng.random());
        // Stands in until the marks are read: never driven, so never active.
        let mut limits = Limits::new(limits_config(&config, &intent, IDLE_CAPACITY, 0), Recovery::Lost, now);
        limits.handle_definitions(&definitions(&intent), now);
        let compiled = Compiled::new(&intent, &config.regions, None);
        let mut probes = ProbeSchedule::default();
        probes.follow(&compiled.board, &mut rng, now.mono);
        let states = RegionStates::default();
        let view = Arc::new(compiled.view(&intent, &config.region, limits.limiter(), &states, 1));
        let mut node = Self {
            region_list: facts::region_list(config.regions.ids()),
            started: now.wall,
            neighbours: Neighbours::new(&config.name, &config.region, &config.peers),
            presence: Presence::new(&config.peers, now.mono),
            rosters: RosterWatch::default(),
            liveness: Liveness::default(),
            guard: ElectionGuard::new(config.name.clone()),
            known: BTreeMap::new(),
            said_of_regions: None,
            heartbeats: BTreeMap::new(),
            stale: BTreeSet::new(),
            ready: false,
            eligible: false,
            limits_started: false,
            limit_keys: LIMIT_KEYS,
            ownership: Ownership::default(),
            heartbeats_sent: 0,
            reported: LeaderSight::default(),
            published: None,
            next_tick: now.mono,
            next_heartbeat: now.mono,
            next_publication: now.mono,
            outbox: VecDeque::new(),
            proposals: VecDeque::new(),
            splits: Splits::default(),
            renewed: None,
            events: VecDeque::new(),
            counts: Counts::default(),
            config,
            intent,
            gossip,
            limits,
            probes,
            rng,
            compiled,
            states,
            view,
        };
        node.weigh_regions(now);
        node.refresh_view();
        node
    }

    /// Sets how many keys of limits have a counter of their own at one time; default [`LIMIT_KEYS`]. Counts from the next
    /// [`Node::start_limits`].
    pub fn set_limit_keys(&mut self, keys: usize) {
        self.limit_keys = keys;
    }

    /// Starts the limits, once it is known what an earlier process may have spent. A second call is ignored.
    pub fn start_limits(&mut self, start: Start, now: Now) {
        if self.limits_started {
            return;
        }
        self.limits_started = true;
        let config = limits_config(&self.config, &self.intent, self.limit_keys, start.life);
        self.limits = Limits::new(config, start.recovery, now);
        self.limits.handle_turns(&self.intent.rosters_since(&self.config.region, 0), now);
        self.limits.handle_definitions(&definitions(&self.intent), now);
        self.follow_leases(&Leases::default(), now);
        if self.ownership.is_lost() {
            self.limits.fence();
        }
        self.settle(now);
        self.refresh_view();
    }

    /// Takes a message that `from`, as the mesh authenticated it, sent.
    pub fn handle_message(&mut self, from: &NodeName, message: Message, now: Now) -> Result<(), Refused> {
        let Some(region) = self.config.peers.get(from).cloned() else {
            self.counts.refused += 1;
            return Err(Refused::UnknownSender { from: from.clone() });
        };
        self.hear(from, now.mono);
        let from_node = || from.clone();
        let handled = match message {
            Message::Gossip(message) => {
                let handled = self.gossip.handle_message(from, message, now);
                handled.map_err(|source| Refused::Gossip { from: from_node(), source })
            }
            // Before the start nothing is remembered: digests will repeat it.
            Message::Limits(_) if !self.limits_started => Ok(()),
            Message::Limits(message) => {
                let handled = self.limits.handle_message(&region, from, message, now);
                handled.map_err(|source| Refused::Limits { from: from_node(), source })
            }
            Message::Heartbeat(heartbeat) => {
                self.handle_heartbeat(from, heartbeat, now);
                Ok(())
            }
        };
        *if handled.is_ok() { &mut self.counts.messages } else { &mut self.counts.refused } += 1;
        self.settle(now);
        handled
    }

    /// Takes what Raft applied last.
    pub fn handle_intent(&mut self, intent: Arc<Intent>, now: Now) {
        if !Arc::ptr_eq(&self.intent.snapshot, &intent.snapshot) || self.intent.limits != intent.limits {
            self.compiled = Compiled::new(&intent, &self.config.regions, Some(&self.compiled.board));
            self.probes.follow(&self.compiled.board, &mut self.rng, now.mono);
            self.limits.handle_definitions(&definitions(&intent), now);
        }
        if self.limits_started && self.intent.rosters != intent.rosters {
            let known = self.intent.rosters.get(&self.config.region).map_or(0, |roster| roster.epoch);
            self.limits.handle_turns(&intent.rosters_since(&self.config.region, known), now);
            self.limits.handle_rosters(&intent.rosters, now);
        }
        let before = std::mem::replace(&mut self.intent, intent);
        if before.leases != self.intent.leases || !Arc::ptr_eq(&before.snapshot, &self.intent.snapshot) {
            self.follow_leases(&before.leases, now);
        }
        self.watch_ownership();
        self.settle(now);
        self.weigh_regions(now);
        self.publish_if_changed(now);
        self.refresh_view();
    }

    /// Takes the outcome of a probe.
    pub fn handle_probe(&mut self, endpoint: EndpointId, outcome: ProbeOutcome, now: Now) {
        if let Some(health) = self.compiled.board.handle_probe(endpoint, outcome, now.mono) {
            self.emit(Event::EndpointHealth { endpoint, health });
        }
    }

    /// Takes what Raft on this node says; call on every change, the leader's falling silent included.
    pub fn handle_raft_status(&mut self, raft: RaftStatus, now: Now) {
        self.guard.handle_status(raft);
        if self.guard.own_sight() != self.reported {
            self.send_heartbeats(now);
        }
        self.settle(now);
    }

    /// The write with this number, and all before it, are on disk.
    pub fn handle_durable(&mut self, sequence: MarkSequence, now: Now) {
        self.limits.handle_durable(sequence, now);
        self.settle(now);
    }

    /// Does what is due. Also to be called when a worker saw `Limiter::take_attention`.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.limits_started {
            self.limits.handle_timeout(now);
        }
        self.gossip.handle_timeout(now);
        self.probes.handle_timeout(&self.compiled.board, &mut self.rng, now.mono);
        if now.mono >= self.next_tick {
            self.next_tick = now.mono + TICK;
            self.tick(now);
        }
        self.settle(now);
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.outbox.pop_front() {
            return Some(transmit);
        }
        if let Some((to, message)) = self.gossip.poll_transmit() {
            let class = if message.encoded_len_bound() < MAX_DATAGRAM { Class::Datagram } else { Class::Stream };
            return Some(Transmit { to, class, message: Message::Gossip(message) });
        }
        while self.limits_started {
            let (to, message) = self.limits.poll_transmit()?;
            if let Some(to) = to.node.or_else(|| self.presence.liveliest(&to.region).cloned()) {
                let class = if message.is_long() { Class::Stream } else { Class::Datagram };
                return Some(Transmit { to, class, message: Message::Limits(message) });
            }
        }
        None
    }

    /// The next probe to make.
    pub fn poll_probe(&mut self) -> Option<ProbeRequest> {
        self.probes.poll()
    }

    /// The next write to make durable. A failed one is tried again by the driver until it succeeds.
    pub fn poll_marks(&mut self) -> Option<MarkWrite> {
        if self.limits_started { self.limits.poll_marks() } else { None }
    }

    /// The next command to propose to the cluster. Its outcome shows in the intent; one that is lost is proposed again.
    pub fn poll_proposal(&mut self) -> Option<Command> {
        self.proposals.pop_front()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether something came since this was last asked that a request waiting for its limits may use: let those try
    /// again.
    pub fn take_relief(&mut self) -> bool {
        self.limits_started && self.limits.take_relief()
    }

    /// When to call [`Node::handle_timeout`] again.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let limits = if self.limits_started { self.limits.poll_timeout() } else { None };
        let others = [self.gossip.poll_timeout(), self.probes.next_timeout(), limits];
        others.into_iter().flatten().chain([self.next_tick]).min()
    }

    /// What to decide from until [`Node::view_version`] changes.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Changes whenever [`Node::view`] is another one.
    pub fn view_version(&self) -> u64 {
        self.view.version
    }

    fn refresh_view(&mut self) {
        let Self { config, intent, compiled, limits, states, ready, view, .. } = self;
        let next = compiled.view(intent, &config.region, limits.limiter(), states, view.version + 1);
        *view = Arc::new(View { ready: *ready, ..next });
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() < MAX_QUEUE {
            self.events.push_back(event);
        } else {
            self.counts.dropped += 1;
        }
    }
}

fn limits_config(config: &NodeConfig, intent: &Intent, capacity: usize, life: u64) -> LimitsConfig {
    let mut rosters = intent.rosters.clone();
    // Before the cluster knows a node of it, the region's limits are nobody's.
    rosters.entry(config.region.clone()).or_default();
    let neighbours = config.peers.iter().filter(|(_, region)| **region == config.region);
    LimitsConfig {
        node: config.name.clone(),
        region: config.region.clone(),
        neighbours: neighbours.map(|(node, _)| node.clone()).collect(),
        rosters,
        life,
        regions: config.regions.ids().to_vec(),
        hash_key: config.hash_key,
        capacity,
        worst_rtt: config.regions.worst_rtt(),
        budget: LIMITS_BUDGET,
    }
}

/// Keys of limits that have a counter of their own at one time, unless [`Node::set_limit_keys`] says otherwise.
pub const LIMIT_KEYS: usize = 1 << 18;

/// Bytes of counters a second that a region sends to all others: 40 Mb/s, which packets and signs of life of a large
/// fleet bring to 60.
const LIMITS_BUDGET: ByteSize = ByteSize(5_000_000);

/// How long a proposal is given before it is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(1);

/// Before the start no key is counted.
const IDLE_CAPACITY: usize = 16;

/// How often a node looks at what only time changes: silence, freshness, hold.
const TICK: Duration = Duration::from_millis(100);

/// Most messages or events that wait for the driver; further ones are dropped and counted.
const MAX_QUEUE: usize = 8192;
