//! Since when every node of the fleet hears every other, by what the scenario broke: whether a slot is held to what `plan`
//! states of a fleet that is well, or to what it states of one in which something is cut off. Never asks the gateway
//! whether it is degraded.

use portolan_config::{Algorithm, Limit, RegionMap, Scenario};
use portolan_limits::Fleet;
use portolan_model::Ratio;
use tokio::time::Duration;

use crate::{civil::millis, world::World};

/// What `plan` tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Every node hears every other, and has for long enough.
    Calm,
    /// Something is cut off, down or late, or was a moment ago.
    Troubled,
    /// So is a node that runs, for others of its own region.
    Split,
}

/// How long what was broken may be felt once it is mended and no region is stale any more: links heal, nodes start and
/// come back to the rosters.
const FELT_FOR: Duration = Duration::from_secs(5);

/// Loss up to this never swallows heartbeats for as long as makes a region stale: five in a row, one in 300 million.
const ORDINARY_LOSS: Ratio = Ratio::from_parts(200);

/// Loss between the nodes of a region up to this never takes a node its rights: these last for more words than are lost in
/// a row.
const ORDINARY_LOSS_WITHIN: Ratio = Ratio::from_parts(1000);

/// What was broken last.
#[derive(Debug)]
pub struct Trouble {
    /// Whether the network loses so much that regions may be unheard at any time.
    always: bool,
    /// Whether it loses so much between the nodes of a region that they may be without each other at any time.
    always_split: bool,
    /// When something was broken last, in milliseconds of the scenario, and when between the nodes of a region.
    last_ms: Option<i64>,
    split_ms: Option<i64>,
    /// When anything last kept some node from what a fleet that is well does.
    unrest_ms: Option<i64>,
    /// How long it may be felt.
    felt_ms: i64,
    /// The longest that a request is under way.
    lasting_ms: i64,
}

impl Trouble {
    /// Nothing is broken yet.
    pub fn new(regions: &RegionMap, scenario: &Scenario) -> Self {
        let felt = Fleet::of(regions, 1).staleness + FELT_FOR;
        let lasting = scenario.clients.iter().map(|load| load.lasting).max().unwrap_or_default();
        Self {
            always: scenario.loss > ORDINARY_LOSS,
            always_split: scenario.within.loss > ORDINARY_LOSS_WITHIN,
            last_ms: None,
            split_ms: None,
            unrest_ms: None,
            felt_ms: millis(felt),
            lasting_ms: millis(lasting),
        }
    }

    /// Notes that something is broken, `State::Split` if it keeps nodes of one region from each other.
    pub fn note(&mut self, state: State, at_ms: i64) {
        match state {
            State::Calm => {}
            State::Troubled => self.last_ms = Some(at_ms),
            State::Split => (self.last_ms, self.split_ms) = (Some(at_ms), Some(at_ms)),
        }
    }

    /// Notes that something is not as in a fleet that is well, though it need not keep nodes from each other: a disk, a
    /// clock, a revision that is not everywhere.
    pub fn note_unrest(&mut self, at_ms: i64) {
        self.unrest_ms = Some(at_ms);
    }

    /// When that was last, in milliseconds of the scenario. Packets that the network always loses are no such thing.
    pub fn last_unrest_ms(&self) -> Option<i64> {
        self.unrest_ms
    }

    /// Whether regions, or nodes of one, may be unheard at any time.
    pub fn is_always(&self) -> bool {
        self.always || self.always_split
    }

    /// The longest that a request is under way, in milliseconds.
    pub fn lasting_ms(&self) -> i64 {
        self.lasting_ms
    }

    /// What a limit is held to in a slot that began at `from_ms`.
    pub fn state(&self, limit: &Limit, from_ms: i64) -> State {
        let felt_ms = self.felt_ms
            + match &limit.algorithm {
                // A node that was cut from its region works on at what it had admitted.
                Algorithm::Concurrency { .. } => self.lasting_ms,
                // What is left of the slot before counts, too.
                Algorithm::SlidingWindow { window, .. } => millis(*window),
                Algorithm::FixedWindow { .. } | Algorithm::TokenBucket { .. } => 0,
            };
        let felt = |last_ms: Option<i64>| last_ms.is_some_and(|last| from_ms <= last + felt_ms);
        match (self.always_split || felt(self.split_ms), self.always || felt(self.last_ms)) {
            (true, _) => State::Split,
            (false, true) => State::Troubled,
            (false, false) => State::Calm,
        }
    }
}

impl World<'_> {
    /// Looks whether something keeps nodes from each other or from lenders.
    pub fn note_trouble(&mut self) {
        // What a host that is down had in flight ended with it: that gives nobody a unit.
        let prompt = |host: &crate::host::Host| host.paused.is_none() && host.slow_by.is_none();
        let up = |host: &crate::host::Host| host.process.is_some();
        let state = if !self.hosts.iter().all(prompt) || self.network.splits_a_region() {
            State::Split
        } else if !self.hosts.iter().all(up) || !self.network.is_whole() || !self.lenders.are_well() {
            State::Troubled
        } else {
            State::Calm
        };
        if self.watch.zero.is_none() {
            return;
        }
        let at_ms = self.at_ms();
        self.tally.truth.trouble.note(state, at_ms);
        if state != State::Calm || self.is_restless() {
            self.tally.truth.trouble.note_unrest(at_ms);
        }
    }

    /// Whether something else is off that a fleet has to get over: disks, clocks, or nodes that know different revisions.
    fn is_restless(&self) -> bool {
        let revision = |host: &crate::host::Host| host.process.as_ref().map(|process| process.node.view().revision);
        let first = self.hosts.first().and_then(revision);
        let disks = self.hosts.iter().any(|host| !host.marks.is_well());
        disks || !self.watch.clocks.are_sound() || self.hosts.iter().any(|host| revision(host) != first)
    }
}
