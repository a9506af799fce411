//! Three nodes over a seeded network in virtual time, with disks and upstreams that answer at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use portolan_config::{Applied, Bundle, Change, Command, Intent, RegionMap, SourceFile};
use portolan_limits::{MarkSequence, Recovery, Start};
use portolan_model::{HashKey, MemberId, NodeName, Now, RegionId, Timestamp, WallTime, codec};
use portolan_node::{Class, Event, MAX_DATAGRAM, Message, Node, NodeConfig, RaftStatus, RegionHealth};
use portolan_routing::{EndpointId, ProbeOutcome};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub const SECOND: Duration = Duration::from_secs(1);
pub const MILLISECOND: Duration = Duration::from_millis(1);

/// The three regions by name; each has one node, `<region>-1`.
pub const REGIONS: [&str; 3] = ["ap", "eu", "us"];

const EPOCH: WallTime = WallTime::from_unix_millis(1_795_000_000_000);

pub const GATEWAY: &str = "
version: 1
services:
  orders:
    endpoints:
      us: ['http://127.0.0.1:9101', 'http://127.0.0.1:9102']
      eu: ['http://127.0.0.2:9101']
limits:
  total: { key: service, rate: 900/min }
routes:
  orders: { match: { host: api.example.test, path: /orders/** }, limits: [total], service: orders }
dns:
  example.test: { api: { regions: all, ttl: 30s } }
";

pub struct Fleet {
    pub now: Timestamp,
    pub nodes: BTreeMap<NodeName, Node>,
    pub regions: Arc<RegionMap>,
    pub intent: Arc<Intent>,
    /// Nodes that hear nobody and are heard by nobody.
    pub cut_off: BTreeSet<NodeName>,
    /// Messages between two nodes that are lost, both ways.
    pub cut_links: BTreeSet<(NodeName, NodeName)>,
    /// Endpoints that fail their probes.
    pub ill: BTreeSet<EndpointId>,
    pub transcript: Vec<String>,
    /// How far nodes' wall clocks are behind.
    pub clock_behind: BTreeMap<NodeName, Duration>,
    agenda: BTreeMap<(Timestamp, u64), (NodeName, Due)>,
    planned: u64,
    started: u64,
    rng: ChaCha8Rng,
}

enum Due {
    Arrives(NodeName, Vec<u8>),
    Durable(MarkSequence),
    Probed(EndpointId),
}

pub fn region(name: &str) -> RegionId {
    RegionId::new(name).expect("a name")
}

/// The one node of a region.
pub fn node(region: &str) -> NodeName {
    NodeName::new(&format!("{region}-1")).expect("a name")
}

impl Fleet {
    pub fn new(seed: u64) -> Self {
        let regions = Arc::new(region_map());
        let mut fleet = Self {
            now: Timestamp::ZERO,
            nodes: BTreeMap::new(),
            intent: Arc::new(Intent::new(Arc::clone(&regions))),
            regions,
            cut_off: BTreeSet::new(),
            cut_links: BTreeSet::new(),
            ill: BTreeSet::new(),
            transcript: Vec::new(),
            clock_behind: BTreeMap::new(),
            agenda: BTreeMap::new(),
            planned: 0,
            started: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
        };
        for (member, name) in (1..).zip(REGIONS) {
            fleet.order(&join(name, member));
            fleet.start(name, Recovery::FirstStart);
        }
        fleet.order(&apply(GATEWAY));
        fleet
    }

    /// A fleet in which all know each other and all regions serve.
    pub fn settled(seed: u64) -> Self {
        let mut fleet = Self::new(seed);
        fleet.run(6 * SECOND);
        for viewer in REGIONS {
            assert_eq!(fleet.serving(viewer), REGIONS, "seen from {viewer} with seed {seed}");
        }
        fleet
    }

    pub fn start(&mut self, name: &str, recovery: Recovery) {
        let config = NodeConfig {
            name: node(name),
            region: region(name),
            regions: Arc::clone(&self.regions),
            peers: REGIONS.iter().map(|name| (node(name), region(name))).collect(),
            hash_key: HashKey::new([7; 16]),
            seed: self.rng.random(),
        };
        let now = self.now_at(&node(name));
        let mut started = Node::new(config, Arc::clone(&self.intent), now);
        started.set_limit_keys(1 << 10);
        self.started += 1;
        started.start_limits(Start { recovery, life: self.started }, now);
        self.nodes.insert(node(name), started);
    }

    pub fn kill(&mut self, name: &str) {
        self.nodes.remove(&node(name)).expect("the node runs");
        self.agenda.retain(|_, (at, _)| *at != node(name));
    }

    /// Applies a command at every node at once, as Raft would after a while.
    pub fn order(&mut self, command: &Command) -> Applied {
        self.order_at_once(std::slice::from_ref(command)).remove(0)
    }

    /// The same of commands that the nodes hear of together, as if their log had been late.
    pub fn order_at_once(&mut self, commands: &[Command]) -> Vec<Applied> {
        let mut intent = (*self.intent).clone();
        let applied = commands.iter().map(|command| intent.apply(command)).collect();
        self.intent = Arc::new(intent);
        let (now, intent) = (self.now(), &self.intent);
        self.nodes.values_mut().for_each(|node| node.handle_intent(Arc::clone(intent), now));
        applied
    }

    pub fn raft_status(&mut self, name: &str, leader_is_live: bool) {
        let (now, voters) = (self.now(), REGIONS.map(node).to_vec());
        let status = RaftStatus { leader_is_live, voters, ..RaftStatus::default() };
        self.node(name).handle_raft_status(status, now);
    }

    pub fn now(&self) -> Now {
        Now { mono: self.now, wall: EPOCH + self.now.since(Timestamp::ZERO) }
    }

    fn now_at(&self, name: &NodeName) -> Now {
        let Now { mono, wall } = self.now();
        Now { mono, wall: wall - self.clock_behind.get(name).copied().unwrap_or_default() }
    }

    pub fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(&node(name)).expect("the node runs")
    }

    /// The regions that `viewer` would name in DNS.
    pub fn serving(&self, viewer: &str) -> Vec<String> {
        let status = self.nodes[&node(viewer)].status(self.now());
        let serving = status.regions.into_iter().filter(|(_, region)| region.state == RegionHealth::Serving);
        serving.map(|(region, _)| region.to_string()).collect()
    }

    /// Events of one node so far.
    pub fn says(&self, name: &str, event: &Event) -> bool {
        self.transcript.iter().any(|line| line.ends_with(&format!(" {}: {event:?}", node(name))))
    }

    /// Encoded messages on their way to a node, at least one.
    pub fn under_way(&mut self, to: &NodeName) -> Vec<Vec<u8>> {
        loop {
            let arriving = self.agenda.values().filter(|(at, _)| at == to).filter_map(|(_, due)| match due {
                Due::Arrives(_, bytes) => Some(bytes.clone()),
                _ => None,
            });
            let arriving: Vec<_> = arriving.collect();
            if !arriving.is_empty() {
                return arriving;
            }
            self.run(10 * MILLISECOND);
        }
    }

    pub fn run(&mut self, length: Duration) {
        let end = self.now + length;
        loop {
            self.drive();
            let agenda = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            let timer = self.nodes.values().filter_map(Node::poll_timeout).min();
            let next = agenda.into_iter().chain(timer).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if agenda == Some(next) {
                let (_, (name, due)) = self.agenda.pop_first().expect("it was seen");
                self.hand_in(&name, due);
            } else {
                let due = |node: &Node| node.poll_timeout().is_some_and(|at| at <= next);
                let names: Vec<_> =
                    self.nodes.iter().filter(|(_, node)| due(node)).map(|(name, _)| name.clone()).collect();
                for name in names {
                    let now = self.now_at(&name);
                    self.nodes.get_mut(&name).expect("listed above").handle_timeout(now);
                }
            }
        }
    }

    fn hand_in(&mut self, name: &NodeName, due: Due) {
        let (now, ill) = (self.now_at(name), &self.ill);
        let Some(node) = self.nodes.get_mut(name) else { return };
        match due {
            Due::Durable(sequence) => node.handle_durable(sequence, now),
            Due::Probed(endpoint) => {
                let outcome = if ill.contains(&endpoint) { ProbeOutcome::Failure } else { ProbeOutcome::Success };
                node.handle_probe(endpoint, outcome, now);
            }
            Due::Arrives(from, bytes) => {
                let message: Message = codec::decode(&bytes).expect("what was encoded decodes");
                node.handle_message(&from, message, now).expect("an honest message is taken");
            }
        }
    }

    /// What a driver does between two inputs.
    fn drive(&mut self) {
        let names: Vec<NodeName> = self.nodes.keys().cloned().collect();
        for name in names {
            let node = self.nodes.get_mut(&name).expect("listed above");
            let mut sent = Vec::new();
            while let Some(transmit) = node.poll_transmit() {
                sent.push(transmit);
            }
            let mut plan = Vec::new();
            while let Some(write) = node.poll_marks() {
                plan.push((2 * MILLISECOND, Due::Durable(write.sequence)));
            }
            while let Some(probe) = node.poll_probe() {
                plan.push((5 * MILLISECOND, Due::Probed(probe.endpoint)));
            }
            while let Some(event) = node.poll_event() {
                self.transcript.push(format!("{} {name}: {event:?}", self.now.as_nanos()));
            }
            for (after, due) in plan {
                self.plan(after, name.clone(), due);
            }
            for transmit in sent {
                let bytes = codec::encode(&transmit.message).expect("encodes");
                assert!(transmit.class == Class::Stream || bytes.len() <= MAX_DATAGRAM, "{} bytes", bytes.len());
                self.transcript.push(format!("{} {name}>{} {bytes:?}", self.now.as_nanos(), transmit.to));
                self.send(name.clone(), transmit.to, bytes);
            }
        }
    }

    fn send(&mut self, from: NodeName, to: NodeName, bytes: Vec<u8>) {
        let jitter = self.rng.random_range(0..10) * MILLISECOND;
        let cut = self.cut_off.contains(&from)
            || self.cut_off.contains(&to)
            || self.cut_links.contains(&(from.clone(), to.clone()))
            || self.cut_links.contains(&(to.clone(), from.clone()));
        let rtt = |name: &NodeName| region(name.as_str().trim_end_matches("-1"));
        if !cut && self.nodes.contains_key(&to) {
            let one_way = self.regions.rtt(&rtt(&from), &rtt(&to)) / 2;
            self.plan(one_way + jitter, to, Due::Arrives(from, bytes));
        }
    }

    fn plan(&mut self, after: Duration, name: NodeName, due: Due) {
        self.planned += 1;
        self.agenda.insert((self.now + after, self.planned), (name, due));
    }
}

pub fn apply(document: &str) -> Command {
    let document = SourceFile { path: "gateway.yaml".into(), text: document.into() };
    let bundle = Bundle { document, attachments: BTreeMap::new() };
    Change::Apply { bundle, author: "test".into(), expected: None }.at(EPOCH)
}

pub fn drain(name: &str) -> Command {
    let serving = REGIONS.map(region).to_vec();
    Change::Drain { region: region(name), reason: "upgrade".into(), author: "test".into(), serving }.at(EPOCH)
}

/// A process of the region's node joins.
pub fn join(name: &str, member: u64) -> Command {
    Change::Join { node: node(name), region: region(name), member: MemberId(member) }.at(EPOCH)
}

pub fn restore(name: &str) -> Command {
    Change::Restore { region: region(name), author: "test".into() }.at(EPOCH)
}

fn region_map() -> RegionMap {
    let places = [("ap", 1.35, 103.82, 1), ("eu", 53.35, -6.26, 2), ("us", 39.04, -77.49, 3)];
    let file = |path: &str, text: String| SourceFile { path: path.into(), text };
    let mut files: Vec<SourceFile> = places
        .iter()
        .map(|(name, latitude, longitude, k)| {
            let text = format!(
                "version: 1\nregion: {name}\ntitle: {name}\n\
                 coordinates: {{ latitude: {latitude}, longitude: {longitude} }}\naddresses: [127.10.{k}.1]\n"
            );
            file(&format!("{name}.yaml"), text)
        })
        .collect();
    let trips = "version: 1\nrtt:\n\
                 - { between: [us, eu], rtt: 75ms }\n\
                 - { between: [us, ap], rtt: 215ms }\n\
                 - { between: [eu, ap], rtt: 170ms }\n";
    files.push(file("rtt.yaml", trips.into()));
    RegionMap::parse(&files).expect("the regions have no faults")
}
