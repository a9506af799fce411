//! A rehearsal: load, faults and operator steps over virtual time, and what must hold. Decides nothing about running it.

use std::time::Duration;

use portolan_model::{Name, Rate, Ratio, RegionId};

use crate::{
    Faults, OperatorVerb, RegionMap, SourceFile,
    fault::Report,
    scenario_file::{self, Mentions},
};

/// One scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// One line that says what happens.
    pub title: String,
    /// The gateway document it runs with.
    pub config: GatewaySource,
    /// Directory of the region files, relative to the scenario; `None` means the caller's default.
    pub regions: Option<String>,
    /// How much virtual time passes.
    pub length: Duration,
    /// Share of mesh packets lost. Default none.
    pub loss: Ratio,
    /// Largest extra delay of a mesh packet. Default none.
    pub jitter: Duration,
    /// Load.
    pub clients: Vec<ClientLoad>,
    /// What happens, in the order of time.
    pub steps: Vec<Step>,
    /// What must hold.
    pub expect: Expect,
    pub(crate) mentions: Mentions,
    pub(crate) file: SourceFile,
}

impl Scenario {
    /// Reads a scenario, or returns all its faults at once.
    pub fn parse(file: &SourceFile) -> Result<Self, Faults> {
        let mut report = Report::new(file);
        let scenario = scenario_file::parse(&mut report);
        report.finish(scenario)
    }

    /// The file it was read from.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// Checks the names of regions against a map, once that is read.
    pub fn check(&self, regions: &RegionMap) -> Result<(), Faults> {
        let mut report = Report::new(&self.file);
        scenario_file::check_mentions(&self.mentions, regions.ids().iter(), &mut report);
        report.finish(Some(()))
    }
}

/// Where the gateway document of a scenario is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewaySource {
    /// A file, relative to the scenario.
    File(String),
    /// In the scenario itself, placed so that faults name its lines there.
    Inline(SourceFile),
}

/// Steady load from one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLoad {
    /// The region whose gateway the clients reach.
    pub region: RegionId,
    /// Requests, evenly spread.
    pub rate: Rate,
    /// Host asked for.
    pub host: String,
    /// Path asked for.
    pub path: String,
    /// Method. Default GET.
    pub method: String,
    /// Authenticated as; `None` means without a token.
    pub user: Option<String>,
    /// Number of users that share the load in turn: with 3, `alice` becomes `alice-1` to `alice-3`. Default 1.
    pub users: u32,
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, from the start.
    pub at: Duration,
    /// What.
    pub action: Action,
    /// How long it lasts; `None` means to the end. Never set for an operator step.
    pub duration: Option<Duration>,
}

/// What happens in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// These regions lose the mesh to all others; among themselves they stay connected.
    Partition {
        /// The side that is cut off.
        regions: Vec<RegionId>,
        /// Which packets are lost.
        direction: Direction,
    },
    /// The nodes of a region stop at once and come back after the step's duration.
    Crash {
        /// Whose.
        target: CrashTarget,
        /// What they find on their disks.
        disk: Disk,
    },
    /// An operator does something.
    Operator(OperatorVerb),
}

/// Packets that a partition takes, as the cut-off side sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// What is sent to it.
    In,
    /// What it sends.
    Out,
}

/// Whose nodes crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CrashTarget {
    /// Those of this region.
    Region(RegionId),
    /// The Raft leader of that moment.
    Leader,
}

/// What a crashed node finds when it starts again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Disk {
    /// Everything that was made durable.
    #[default]
    Kept,
    /// Nothing.
    Lost,
}

/// What must hold at the end. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Share of requests that got an answer other than 5xx.
    pub availability: Option<Bound<Ratio>>,
    /// Changes of the Raft leader after the first election.
    pub leader_changes: Option<Bound<u64>>,
    /// Requests admitted under limits.
    pub admitted: Vec<AdmittedBound>,
    /// Longest time from the end of the last fault until all nodes agree.
    pub converged_within: Option<Duration>,
}

/// Requests admitted in any one slot of a limit, over all regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedBound {
    /// The limit.
    pub limit: Name,
    /// Requests per slot and key.
    pub per_slot: Bound<u64>,
}

/// A figure and the side of it that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<T> {
    /// Which side.
    pub comparison: Comparison,
    /// The figure.
    pub value: T,
}

impl<T: PartialOrd> Bound<T> {
    /// Whether `actual` is on the right side; the figure itself always is.
    pub fn holds(&self, actual: &T) -> bool {
        match self.comparison {
            Comparison::AtLeast => *actual >= self.value,
            Comparison::AtMost => *actual <= self.value,
        }
    }
}

/// The side of a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
}
