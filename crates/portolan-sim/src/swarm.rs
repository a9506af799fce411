//! Draws scenarios from a seed: which faults, when, how long, how hard, under which load. Swarm testing (Groce et al.,
//! ISSTA 2012): each draw leaves some kinds of faults out, so that no kind hides another.
//!
//! Every draw ends in a quiet phase in which clients go on, and then the fleet must agree again. Draws nothing that ends a fleet for good.

use portolan_config::{
    Action, Arrivals, Bursts, Cut, Direction, Disk, DiskState, Drift, Expect, LenderState, LinkEffect, OperatorVerb,
    Order, Scenario, ScenarioFault, Shift, Start, Step, Target, Within,
};
use portolan_model::{ByteSize, NodeName, Rate, Ratio, RegionId, Revision};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tokio::time::Duration;

use crate::{Sources, chance};

/// Draws scenarios.
#[derive(Clone, Copy, Debug)]
pub struct Swarm;

/// Kinds of what may happen, each drawn in or left out as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Partition,
    Links,
    Crash,
    Restart,
    Disks,
    Pause,
    Slow,
    Clocks,
    Quorum,
    Surge,
    Operator,
    Alternate,
    BadConfig,
    Lender,
}

const KINDS: [Kind; 14] = [
    Kind::Partition,
    Kind::Links,
    Kind::Crash,
    Kind::Restart,
    Kind::Disks,
    Kind::Pause,
    Kind::Slow,
    Kind::Clocks,
    Kind::Quorum,
    Kind::Surge,
    Kind::Operator,
    Kind::Alternate,
    Kind::BadConfig,
    Kind::Lender,
];

/// Shortest and longest scenario that is drawn, and the part of it in which faults are; and how long it goes on beyond that, so
/// that the fleet gets over them while clients ask.
const LENGTH: (u64, u64) = (30, 90);
const FAULTY: f64 = 0.7;
const QUIET: Duration = Duration::from_secs(15);

/// Most steps of a scenario.
const MAX_STEPS: u32 = 12;

/// One of this many orders fences a region, and one ends that.
const FENCE_ODDS: u32 = 12;

/// How long the fleet may take to agree in the quiet phase.
const AGREES_WITHIN: Duration = Duration::from_secs(60);

impl Swarm {
    /// What is drawn from `base`, in words: its steps are no part of that.
    pub fn title(base: &Scenario) -> String {
        format!("Drawn faults, fleet and clients of: {}", base.title)
    }

    /// A scenario in the regions of `base`, with its document and clients, and faults, loads and orders from `seed`.
    pub fn draw(seed: u64, base: &Scenario, sources: &Sources) -> Scenario {
        let mut draw = Draw {
            draws: chance::stream(seed, "swarm", ""),
            regions: sources.regions.ids().to_vec(),
            nodes: Vec::new(),
            documents: sources.documents.keys().cloned().collect(),
        };
        for region in &draw.regions {
            let names =
                (1..=base.nodes_in(region)).filter_map(|number| NodeName::new(&format!("{region}-{number}")).ok());
            draw.nodes.extend(names.map(|name| (name, region.clone())));
        }
        let length = Duration::from_secs(draw.draws.random_range(LENGTH.0..=LENGTH.1));
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| draw.one_in(2)).collect();
        let mut steps = Vec::new();
        let count = if kinds.is_empty() { 0 } else { draw.draws.random_range(1..=MAX_STEPS) };
        for _ in 0..count {
            let kind = kinds[draw.draws.random_range(0..kinds.len())];
            if kind == Kind::Alternate {
                steps.extend(draw.alternation(length.mul_f64(FAULTY)));
            } else {
                steps.extend(draw.step(kind, length.mul_f64(FAULTY)));
            }
        }
        steps.sort_by_key(Step::earliest);
        spare_disks(&mut steps);
        let mut clients = base.clients.clone();
        clients.iter_mut().for_each(|load| draw.load(load));
        let loss = if draw.one_in(2) { draw.share(1000) } else { base.loss };
        let jitter = Duration::from_millis(draw.draws.random_range(0..60));
        let mut drawn = base.clone();
        // From a stream of their own: steps are what they were before there was anything of this to draw.
        draw.draws = chance::stream(seed, "swarm", "region");
        drawn.within = if draw.one_in(2) && draw.has_siblings() { draw.within() } else { base.within };
        drawn.limit_keys = if draw.one_in(4) { Some(draw.few_keys(base, sources)) } else { base.limit_keys };
        drawn.title = format!("{} (seed {seed})", Self::title(base));
        (drawn.length, drawn.loss, drawn.jitter) = (length + QUIET, loss, jitter);
        (drawn.clients, drawn.steps) = (clients, steps);
        drawn.expect = Expect { converged_within: Some(AGREES_WITHIN), ..Expect::default() };
        drawn
    }
}

/// Leaves no more than one node without what its disk held: a fleet whose majority has lost its disks has lost what it
/// acknowledged, whatever it does.
fn spare_disks(steps: &mut [Step]) {
    let mut lost = false;
    for step in steps {
        if let Action::Fault(ScenarioFault::Crash { target, disk: disk @ Disk::Lost }) = &mut step.action {
            if lost || !matches!(target, Target::Node(_)) {
                *disk = Disk::Torn;
            } else {
                lost = true;
            }
        }
    }
}

/// An order that nobody has thought about: it may well be refused.
fn order(verb: OperatorVerb) -> Action {
    Action::Order(Order { verb, may_fail: true })
}

struct Draw {
    draws: ChaCha8Rng,
    regions: Vec<RegionId>,
    nodes: Vec<(NodeName, RegionId)>,
    documents: Vec<String>,
}

impl Draw {
    fn step(&mut self, kind: Kind, faulty: Duration) -> Option<Step> {
        let at = Duration::from_millis(self.draws.random_range(500..(faulty.as_millis() as u64).max(1000) - 300));
        let room = faulty.saturating_sub(at).max(Duration::from_millis(50));
        let lasting = self.lasting().min(room);
        let fault = match kind {
            Kind::Operator | Kind::Alternate => {
                let action = order(self.verb());
                return Some(Step { start: Start::At(at), action, duration: None });
            }
            Kind::BadConfig => {
                let action = Action::Fault(ScenarioFault::BadConfig);
                return Some(Step { start: Start::At(at), action, duration: None });
            }
            Kind::Partition => ScenarioFault::Partition(self.partition()?),
            Kind::Links => ScenarioFault::Link { links: self.links(), effect: self.effect() },
            Kind::Crash => ScenarioFault::Crash { target: self.target(), disk: self.disk() },
            // So short that the slot in which it dies is still open when it comes back.
            Kind::Restart => {
                let lasting = Duration::from_millis(self.draws.random_range(1..400)).min(room);
                let fault = ScenarioFault::Crash { target: self.target(), disk: self.disk() };
                return Some(Step { start: Start::At(at), action: Action::Fault(fault), duration: Some(lasting) });
            }
            Kind::Disks => {
                let late = Duration::from_millis(self.draws.random_range(5..800));
                let state = if self.one_in(2) { DiskState::Full } else { DiskState::Slow(late) };
                ScenarioFault::Disk { target: self.target(), state }
            }
            Kind::Pause => ScenarioFault::Pause { target: self.target() },
            Kind::Slow => {
                let by = Duration::from_millis(self.draws.random_range(1..300));
                ScenarioFault::Slow { target: self.target(), by }
            }
            Kind::Clocks => self.clock(),
            Kind::Quorum => ScenarioFault::QuorumLoss,
            Kind::Surge => {
                let factor = Ratio::from_parts(self.draws.random_range(0..80_000));
                ScenarioFault::Surge { regions: self.some_regions(), factor }
            }
            Kind::Lender => {
                let state = match self.draws.random_range(0..5) {
                    0 => LenderState::Lost,
                    1 | 2 => LenderState::Down,
                    _ => LenderState::Slow(Duration::from_millis(self.draws.random_range(1..100))),
                };
                // What is forgotten is forgotten for all.
                let regions = if state == LenderState::Lost { Vec::new() } else { self.some_regions() };
                ScenarioFault::Lender { state, regions }
            }
        };
        Some(Step { start: Start::At(at), action: Action::Fault(fault), duration: Some(lasting) })
    }

    /// One document after the other is put in force, at distances at which a change may still wait for the one before it;
    /// with documents that split limits otherwise, shares change under whatever else is drawn.
    fn alternation(&mut self, faulty: Duration) -> Vec<Step> {
        let mut at = faulty.mul_f64(self.draws.random_range(0.0..0.5));
        let (mut steps, turns) = (Vec::new(), self.draws.random_range(2..8));
        let first = self.draws.random_range(0..self.documents.len().max(1));
        for turn in 0..turns {
            at += Duration::from_millis(self.draws.random_range(200..9000));
            let Some(file) = self.documents.get((first + turn) % self.documents.len().max(1)).cloned() else { break };
            if at < faulty {
                let action = order(OperatorVerb::Apply { file });
                steps.push(Step { start: Start::At(at), action, duration: None });
            }
        }
        steps
    }

    fn one_in(&mut self, of: u32) -> bool {
        self.draws.random_range(0..of) == 0
    }

    fn share(&mut self, most: u32) -> Ratio {
        Ratio::from_parts(self.draws.random_range(1..=most))
    }

    /// From a blink to longer than every timeout.
    fn lasting(&mut self) -> Duration {
        const MILLIS: [u64; 6] = [40, 200, 700, 2000, 7000, 20_000];
        let most = MILLIS[self.draws.random_range(0..MILLIS.len())];
        Duration::from_millis(self.draws.random_range(most / 4..=most))
    }

    fn region(&mut self) -> RegionId {
        let at = self.draws.random_range(0..self.regions.len());
        self.regions[at].clone()
    }

    fn some_regions(&mut self) -> Vec<RegionId> {
        let regions = self.regions.clone();
        regions.into_iter().filter(|_| self.one_in(2)).collect()
    }

    fn direction(&mut self) -> Direction {
        [Direction::Both, Direction::Both, Direction::In, Direction::Out][self.draws.random_range(0..4)]
    }

    /// Whether some region has several nodes.
    fn has_siblings(&self) -> bool {
        self.nodes.len() > self.regions.len()
    }

    /// What becomes of packets between the nodes of a region.
    fn within(&mut self) -> Within {
        let [loss, reorder, duplicate] = [800, 1500, 800].map(|most| self.share(most));
        Within { loss, reorder, duplicate }
    }

    /// Room for a quarter of the keys that are asked for, or less, so that tables fill up.
    fn few_keys(&mut self, base: &Scenario, sources: &Sources) -> u64 {
        let asked = sources.most_keys(base) as u64 / 2;
        self.draws.random_range(1..=(asked / 4).max(1))
    }

    /// A cut between nodes in places, else one between regions; `None` in a fleet of one node.
    fn partition(&mut self) -> Option<Cut> {
        if self.nodes.len() < 2 || !self.one_in(3) {
            return self.cut();
        }
        let (node, region) = self.nodes[self.draws.random_range(0..self.nodes.len())].clone();
        let siblings = self.nodes.iter().filter(|(_, other)| *other == region).count();
        let regions = if siblings > 1 && self.one_in(2) { vec![region] } else { Vec::new() };
        Some(Cut::Nodes { nodes: vec![node], regions, direction: self.direction() })
    }

    /// A side that is cut off, or pairs that lose each other; `None` in a fleet of one region.
    fn cut(&mut self) -> Option<Cut> {
        if self.regions.len() < 2 {
            return None;
        }
        let direction = self.direction();
        if self.one_in(3) {
            let first = self.region();
            let others: Vec<RegionId> = self.regions.iter().filter(|region| **region != first).cloned().collect();
            let second = others[self.draws.random_range(0..others.len())].clone();
            return Some(Cut::Pairs { pairs: vec![(first, second)], direction });
        }
        let mut regions = self.some_regions();
        if regions.is_empty() || regions.len() == self.regions.len() {
            regions = vec![self.region()];
        }
        Some(Cut::Side { regions, direction })
    }

    fn links(&mut self) -> Cut {
        if self.one_in(2) { Cut::All } else { self.cut().unwrap_or(Cut::All) }
    }

    fn effect(&mut self) -> LinkEffect {
        match self.draws.random_range(0..5) {
            0 => LinkEffect::Latency(Duration::from_millis(self.draws.random_range(1..400))),
            1 => LinkEffect::Loss(self.share(5000)),
            2 => LinkEffect::Duplicate(self.share(5000)),
            3 => LinkEffect::Reorder(self.share(5000)),
            _ => LinkEffect::Bandwidth(ByteSize(self.draws.random_range(8..512) * 1024)),
        }
    }

    fn target(&mut self) -> Target {
        match self.draws.random_range(0..6) {
            0 | 1 => Target::Region(self.region()),
            2 => Target::Leader,
            3 => Target::Fleet,
            _ => Target::Node(self.nodes[self.draws.random_range(0..self.nodes.len())].0.clone()),
        }
    }

    /// A lost disk is rare: it makes a node a stranger.
    fn disk(&mut self) -> Disk {
        match self.draws.random_range(0..8) {
            0 => Disk::Lost,
            1..=3 => Disk::Torn,
            _ => Disk::Kept,
        }
    }

    fn clock(&mut self) -> ScenarioFault {
        let target = self.target();
        if self.one_in(3) {
            let drift = Drift { ppm: self.draws.random_range(-50_000..50_000) };
            return ScenarioFault::ClockDrift { target, drift };
        }
        const MILLIS: [i32; 4] = [200, 1500, 8000, 70_000];
        let most = MILLIS[self.draws.random_range(0..MILLIS.len())];
        ScenarioFault::ClockStep { target, by: Shift::from_millis(self.draws.random_range(-most..=most)) }
    }

    fn verb(&mut self) -> OperatorVerb {
        match self.draws.random_range(0..FENCE_ODDS) {
            0 => return OperatorVerb::Fence { region: self.fenced(), reason: "drawn".to_owned() },
            1 => return OperatorVerb::Unfence { region: self.fenced() },
            _ => {}
        }
        match self.draws.random_range(0..4) {
            0 => OperatorVerb::Drain { region: self.region(), reason: "drawn".to_owned() },
            1 => OperatorVerb::Restore { region: self.region() },
            2 if !self.documents.is_empty() => {
                let file = self.documents[self.draws.random_range(0..self.documents.len())].clone();
                OperatorVerb::Apply { file }
            }
            _ => OperatorVerb::Rollback { to: Revision(self.draws.random_range(1..4)) },
        }
    }

    /// The region whose shares operators of a draw give away: always the same one, so that somebody has them.
    fn fenced(&self) -> RegionId {
        self.regions[0].clone()
    }

    /// Another rhythm and another height for a load.
    fn load(&mut self, load: &mut portolan_config::ClientLoad) {
        const TENTHS: [u64; 7] = [0, 3, 8, 10, 10, 20, 40];
        let tenths = TENTHS[self.draws.random_range(0..TENTHS.len())];
        load.rate = Rate { count: (load.rate.count * tenths).div_ceil(10), per: load.rate.per };
        if self.one_in(2) {
            load.arrivals = Arrivals::Poisson;
        }
        if self.one_in(3) {
            let every = Duration::from_millis(self.draws.random_range(500..8000));
            load.bursts = Some(Bursts { every, length: every.mul_f64(self.draws.random_range(0.05..0.9)) });
        }
        load.sticky = self.one_in(3);
        if load.failing.parts() > 0 {
            load.failing = self.share(10_000);
        }
    }
}
