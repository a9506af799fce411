//! What the scenario does to the fleet: begins and ends its steps.
//!
//! A step with a time is planned; one that waits for a condition is looked at with every observation. What operators do
//! is in `orders`.

use std::collections::BTreeMap;

use portolan_config::{
    Action, Condition, Disk, DiskState, Figure, LenderState, Scenario, ScenarioFault, Start, Target,
};
use portolan_model::{Ratio, RegionId, Timestamp};
use portolan_raft::Role;
use tokio::time::Duration;

use crate::{
    orders::Orders,
    series::{Span, SpanKind},
    world::{Plan, World},
};

/// The most that surges together make of a load.
const MAX_SURGE: Ratio = Ratio::from_parts(10_000_000);

/// What is under way.
pub struct Faults {
    /// What operators have asked for.
    pub orders: Orders,
    /// Steps that wait for a condition.
    waiting: Vec<usize>,
    /// Steps that have begun, with what they hit.
    begun: BTreeMap<usize, Begun>,
    /// Load of clients in these regions, by step.
    surges: BTreeMap<usize, (Vec<RegionId>, Ratio)>,
}

/// A step that has begun.
#[derive(Default)]
struct Begun {
    hosts: Vec<usize>,
    span: usize,
    ended: bool,
}

impl Faults {
    /// Nothing has begun.
    pub fn new(scenario: &Scenario) -> Self {
        let waits = |step: &usize| matches!(scenario.steps[*step].start, Start::When { .. });
        Self {
            orders: Orders::default(),
            waiting: (0..scenario.steps.len()).filter(waits).collect(),
            begun: BTreeMap::new(),
            surges: BTreeMap::new(),
        }
    }

    /// Times the usual load that clients of a region send.
    pub fn surge(&self, region: &RegionId) -> Ratio {
        let of_region = self.surges.values().filter(|(regions, _)| regions.is_empty() || regions.contains(region));
        of_region.fold(Ratio::ONE, |factor, (_, next)| {
            Ratio::from_parts(u32::try_from(next.of(u64::from(factor.parts()))).unwrap_or(u32::MAX)).min(MAX_SURGE)
        })
    }

    /// Steps whose condition never held.
    pub fn never_begun(&self) -> &[usize] {
        &self.waiting
    }
}

impl World<'_> {
    /// Begins the steps whose condition holds.
    pub fn begin_waiting_steps(&mut self) {
        let elapsed = self.since_zero().since(Timestamp::ZERO);
        if self.watch.zero.is_none() || elapsed >= self.scenario.length {
            return;
        }
        let scenario = self.scenario;
        let holds = |world: &Self, step: usize| match &scenario.steps[step].start {
            Start::At(_) => false,
            Start::When { condition, not_before } => elapsed >= *not_before && world.holds(condition),
        };
        let (due, waiting) = std::mem::take(&mut self.faults.waiting).into_iter().partition(|&step| holds(self, step));
        self.faults.waiting = waiting;
        let due: Vec<usize> = due;
        due.into_iter().for_each(|step| self.begin_step(step));
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::LeaderIn(region) => self.leader().is_some_and(|host| self.hosts[host].region == *region),
            Condition::DegradedIn(region) => self.place_of(region).is_some_and(|place| self.is_degraded(place)),
            Condition::Figure { figure, limit, region, bound } => {
                let place = region.as_ref().and_then(|region| self.place_of(region));
                bound.holds(&self.figure(*figure, limit.as_ref(), place))
            }
        }
    }

    fn figure(&self, figure: Figure, limit: Option<&portolan_model::Name>, place: Option<usize>) -> u64 {
        let counts = place.map_or_else(|| self.recorder.total(), |place| self.recorder.requests[place]);
        let of_limit = limit.and_then(|limit| self.tally.of_limit(limit));
        let hosts = || self.hosts.iter().filter(|host| place.is_none_or(|place| host.place == place));
        let processes = || hosts().filter_map(|host| host.process.as_ref());
        match figure {
            Figure::Sent => counts.sent,
            Figure::Forwarded => counts.forwarded,
            Figure::Limited => counts.limited,
            Figure::Unavailable => counts.unavailable,
            Figure::Unanswered => counts.unanswered,
            Figure::Admitted => of_limit.map_or(0, |limit| match place {
                Some(place) => limit.regions[place].admitted,
                None => limit.admitted(),
            }),
            Figure::Refused => of_limit.map_or(0, |limit| {
                let refused = place.map_or_else(|| limit.refused(), |place| limit.regions[place].refused);
                refused.limited + refused.degraded + refused.undecided
            }),
            Figure::Revision => processes().map(|process| process.node.view().revision.0).max().unwrap_or_default(),
            Figure::LeaderChanges => self.oracle.leader_changes(),
            Figure::NodesReady => processes().filter(|process| process.node.view().ready).count() as u64,
            Figure::ViewAge => {
                let now = self.now;
                let age = |process: &crate::host::Process| {
                    let of_peer = |region: &RegionId| process.node.silence_of(region, now).as_millis() as u64;
                    self.regions.iter().map(of_peer).max().unwrap_or_default()
                };
                processes().map(age).max().unwrap_or_default()
            }
        }
    }

    /// Begins a step of the scenario.
    pub fn begin_step(&mut self, step: usize) {
        let planned = &self.scenario.steps[step];
        let words = planned.words();
        let at_ms = self.since_zero().as_nanos() / 1_000_000;
        let (kind, regions) = match &planned.action {
            Action::Order(order) => {
                (SpanKind::Order, order.verb.region().map(ToString::to_string).into_iter().collect())
            }
            Action::Fault(ScenarioFault::Surge { regions, .. }) => (SpanKind::Load, names(regions)),
            Action::Fault(fault) => (SpanKind::Fault, self.regions_of_fault(fault)),
        };
        let momentary = matches!(
            planned.action,
            Action::Order(_) | Action::Fault(ScenarioFault::BadConfig | ScenarioFault::ClockStep { .. })
        ) && planned.duration.is_none();
        let until_ms = momentary.then_some(at_ms);
        let span = self.recorder.begin(Span { from_ms: at_ms, until_ms, kind, what: words.clone(), regions });
        self.faults.begun.insert(step, Begun { span, ..Begun::default() });
        match &planned.action {
            Action::Order(order) => self.order(order),
            Action::Fault(fault) => {
                self.note(format_args!("begins: {words}"));
                self.break_something(step, fault);
                self.note_fault();
            }
        }
        if let Some(duration) = planned.duration {
            self.agenda.plan(self.now + duration, Plan::End(step));
        }
    }

    fn break_something(&mut self, step: usize, fault: &ScenarioFault) {
        match fault {
            ScenarioFault::Partition(cut) => self.network.cut(step, cut.clone()),
            ScenarioFault::Link { links, effect } => self.network.worsen(step, links.clone(), *effect),
            ScenarioFault::Crash { target, disk } => self.crash(step, self.targets(target), *disk),
            ScenarioFault::QuorumLoss => self.crash(step, self.majority(), Disk::Kept),
            ScenarioFault::Surge { regions, factor } => {
                self.faults.surges.insert(step, (regions.clone(), *factor));
            }
            ScenarioFault::BadConfig => self.order_bad_config(),
            ScenarioFault::Lender { state, regions } => {
                self.lenders.worsen(step, regions.clone(), *state);
                if *state == LenderState::Lost {
                    self.tally.note_lost_loans(self.at_ms(), self.watch.clocks.widest());
                }
            }
            ScenarioFault::Pause { target }
            | ScenarioFault::Slow { target, .. }
            | ScenarioFault::ClockStep { target, .. }
            | ScenarioFault::ClockDrift { target, .. }
            | ScenarioFault::Disk { target, .. } => {
                for host in self.targets(target) {
                    self.hit(host, fault);
                    self.faults.begun.entry(step).or_default().hosts.push(host);
                }
            }
        }
    }

    fn hit(&mut self, host: usize, fault: &ScenarioFault) {
        let place = &mut self.hosts[host];
        match fault {
            ScenarioFault::Pause { .. } => _ = place.paused.get_or_insert_default(),
            ScenarioFault::Slow { by, .. } => place.slow_by = Some(*by),
            ScenarioFault::ClockStep { by, .. } => place.clock.step(by.as_nanos()),
            ScenarioFault::ClockDrift { drift, .. } => place.clock.drift(drift.ppm),
            ScenarioFault::Disk { state: DiskState::Full, .. } => {
                place.marks.set_full(true);
                place.disk.fill();
            }
            ScenarioFault::Disk { state: DiskState::Slow(by), .. } => place.marks.set_slow(*by),
            _ => {}
        }
    }

    fn crash(&mut self, step: usize, hosts: Vec<usize>, disk: Disk) {
        for host in hosts {
            let name = self.hosts[host].name.clone();
            self.note(format_args!("`{name}` crashes, disk {disk:?}"));
            self.crash_host(host, disk);
            self.faults.begun.entry(step).or_default().hosts.push(host);
            if disk == Disk::Lost {
                self.oracle.forget_revision(&name);
                self.tally.truth.note_lost_disk(self.at_ms());
            }
        }
    }

    /// Ends a step that lasted.
    pub fn end_step(&mut self, step: usize) {
        let planned = &self.scenario.steps[step];
        let Some(begun) = self.faults.begun.get_mut(&step) else { return };
        begun.ended = true;
        let (hosts, span) = (std::mem::take(&mut begun.hosts), begun.span);
        let at = self.since_zero();
        self.recorder.end(span, at);
        let Action::Fault(fault) = &planned.action else { return };
        self.note(format_args!("ends: {}", planned.words()));
        match fault {
            ScenarioFault::Partition(_) | ScenarioFault::Link { .. } => self.network.mend(step),
            ScenarioFault::Surge { .. } => _ = self.faults.surges.remove(&step),
            ScenarioFault::Lender { .. } => self.lenders.mend(step),
            _ => hosts.into_iter().for_each(|host| self.mend_host(host, fault)),
        }
        self.note_fault();
    }

    fn mend_host(&mut self, host: usize, fault: &ScenarioFault) {
        match fault {
            ScenarioFault::Crash { .. } | ScenarioFault::QuorumLoss if !self.hosts[host].up => {
                let name = self.hosts[host].name.clone();
                self.note(format_args!("`{name}` starts again"));
                self.start_host(host);
            }
            ScenarioFault::Pause { .. } => self.resume_host(host),
            ScenarioFault::Slow { .. } => self.hosts[host].slow_by = None,
            ScenarioFault::ClockStep { by, .. } => self.hosts[host].clock.step(-by.as_nanos()),
            ScenarioFault::ClockDrift { .. } => self.hosts[host].clock.drift(0),
            ScenarioFault::Disk { state: DiskState::Full, .. } => {
                self.hosts[host].marks.set_full(false);
                self.hosts[host].disk.free();
            }
            ScenarioFault::Disk { state: DiskState::Slow(_), .. } => self.hosts[host].marks.set_slow(Duration::ZERO),
            _ => {}
        }
    }

    /// Whether some fault outlasts the scenario, so that the fleet need not agree.
    pub fn faults_remain(&self) -> bool {
        let lasts = |(step, begun): (&usize, &Begun)| {
            let harmless = matches!(
                self.scenario.steps[*step].action,
                Action::Order(_)
                    | Action::Fault(
                        ScenarioFault::BadConfig
                            | ScenarioFault::Surge { .. }
                            | ScenarioFault::ClockStep { .. }
                            | ScenarioFault::ClockDrift { .. }
                            | ScenarioFault::Lender { .. }
                    )
            );
            !harmless && !begun.ended
        };
        self.faults.begun.iter().any(lasts)
    }

    fn targets(&self, target: &Target) -> Vec<usize> {
        let up = (0..self.hosts.len()).filter(|&host| self.hosts[host].up);
        match target {
            Target::Region(region) => up.filter(|&host| self.hosts[host].region == *region).collect(),
            Target::Node(node) => up.filter(|&host| self.hosts[host].name == *node).collect(),
            Target::Fleet => up.collect(),
            Target::Leader => self.newest_leader().into_iter().collect(),
        }
    }

    /// The node that leads the highest term in its own eyes.
    fn newest_leader(&self) -> Option<usize> {
        let term_led = |host: &usize| {
            let status = self.hosts[*host].process.as_ref()?.raft.status();
            (status.role == Role::Leader).then_some(status.term)
        };
        (0..self.hosts.len()).filter(|host| term_led(host).is_some()).max_by_key(term_led)
    }

    /// The leader and other voters, more than half of them.
    fn majority(&self) -> Vec<usize> {
        let voters = self.hosts.iter().filter_map(|host| host.process.as_ref()).map(|process| process.raft.status());
        let voters = voters.max_by_key(|status| status.term).map(|status| status.voters).unwrap_or_default();
        let leader = self.newest_leader();
        let mut hosts: Vec<usize> = voters.iter().filter_map(|name| self.host_names.get(name)).copied().collect();
        hosts.sort_by_key(|&host| Some(host) != leader);
        hosts.truncate(voters.len() / 2 + 1);
        hosts.retain(|&host| self.hosts[host].up);
        hosts
    }

    /// Place of a region in the list of all.
    pub fn place_of(&self, region: &RegionId) -> Option<usize> {
        self.regions.binary_search(region).ok()
    }

    fn regions_of_fault(&self, fault: &ScenarioFault) -> Vec<String> {
        use portolan_config::Cut;
        match fault {
            ScenarioFault::Partition(cut) | ScenarioFault::Link { links: cut, .. } => match cut {
                Cut::All => Vec::new(),
                Cut::Side { regions, .. } => names(regions),
                Cut::Nodes { nodes, .. } => {
                    let places = nodes.iter().filter_map(|name| self.host_names.get(name));
                    let mut regions: Vec<RegionId> = places.map(|&host| self.hosts[host].region.clone()).collect();
                    regions.dedup();
                    names(&regions)
                }
                Cut::Pairs { pairs, .. } => {
                    let mut ends: Vec<RegionId> = pairs.iter().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
                    ends.sort();
                    ends.dedup();
                    names(&ends)
                }
            },
            ScenarioFault::Surge { regions, .. } | ScenarioFault::Lender { regions, .. } => names(regions),
            ScenarioFault::Crash { target, .. }
            | ScenarioFault::Pause { target }
            | ScenarioFault::Slow { target, .. }
            | ScenarioFault::ClockStep { target, .. }
            | ScenarioFault::ClockDrift { target, .. }
            | ScenarioFault::Disk { target, .. } => {
                let mut regions: Vec<RegionId> =
                    self.targets(target).iter().map(|&host| self.hosts[host].region.clone()).collect();
                regions.dedup();
                if regions.len() == self.regions.len() { Vec::new() } else { names(&regions) }
            }
            ScenarioFault::QuorumLoss | ScenarioFault::BadConfig => Vec::new(),
        }
    }
}

fn names(regions: &[RegionId]) -> Vec<String> {
    regions.iter().map(ToString::to_string).collect()
}
