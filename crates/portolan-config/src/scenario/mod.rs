//! A rehearsal: load, faults and operator steps over virtual time, and what must hold. Decides nothing about running it.

mod condition;
mod expect;
mod fault;
mod load;
mod render;
mod step;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use portolan_model::{Ratio, RegionId};

use crate::{
    Faults, RegionMap, SourceFile,
    fault::Report,
    scenario_file::{self, Mentions},
};

pub use condition::{Condition, Figure};
pub use expect::{Bound, Comparison, Expect, LimitExpectation, Served};
pub use fault::{Cut, Direction, Disk, DiskState, Drift, LenderState, LinkEffect, ScenarioFault, Shift, Target};
pub use load::{Arrivals, Bursts, ClientLoad, Distribution};
pub use step::{Action, Order, Start, Step};

/// One scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// One line that says what happens.
    pub title: String,
    /// The gateway document it runs with; `None` leaves it to the caller.
    pub config: Option<GatewaySource>,
    /// The regions it plays in.
    pub regions: RegionSource,
    /// Nodes of a region that `nodes_of` does not name. Default 1.
    pub nodes: u32,
    /// Nodes of regions that say so.
    pub nodes_of: BTreeMap<RegionId, u32>,
    /// How much virtual time passes.
    pub length: Duration,
    /// First seed, where the caller names none. Default 1.
    pub seed: u64,
    /// Seeds to run, where the caller does not say. Default 1.
    pub seeds: u64,
    /// Share of mesh packets lost. Default none.
    pub loss: Ratio,
    /// Largest extra delay of a mesh packet. Default none.
    pub jitter: Duration,
    /// What becomes of packets between nodes of one region. Default: nothing.
    pub within: Within,
    /// Keys of limits that a node has room for. Default: as many as clients can ask for.
    pub limit_keys: Option<u64>,
    /// Round trip to the Redis of lenders, from regions that `redis_rtt_of` does not name. Default 2 ms.
    pub redis_rtt: Duration,
    /// Round trip to the Redis of lenders from regions that say so.
    pub redis_rtt_of: BTreeMap<RegionId, Duration>,
    /// Load.
    pub clients: Vec<ClientLoad>,
    /// What happens: steps with a time in the order of time, then those that wait for a condition.
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

    /// Nodes of a region.
    pub fn nodes_in(&self, region: &RegionId) -> u32 {
        self.nodes_of.get(region).copied().unwrap_or(self.nodes)
    }

    /// Round trip to the Redis of lenders from a region.
    pub fn redis_rtt_from(&self, region: &RegionId) -> Duration {
        self.redis_rtt_of.get(region).copied().unwrap_or(self.redis_rtt)
    }

    /// The scenario as a file that reads back to it: for one that was drawn or cut down.
    pub fn render(&self) -> String {
        render::render(self)
    }
}

/// What becomes of packets between nodes of one region, where they take half a millisecond. Those on streams arrive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Within {
    /// Share of them lost.
    pub loss: Ratio,
    /// Share of them that come up to 60 ms late, so that others overtake them.
    pub reorder: Ratio,
    /// Share of them that come twice.
    pub duplicate: Ratio,
}

/// Where the gateway document of a scenario is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewaySource {
    /// A file, relative to the scenario.
    File(String),
    /// In the scenario itself, placed so that faults name its lines there.
    Inline(SourceFile),
}

/// Where the regions of a scenario are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RegionSource {
    /// The caller's default.
    #[default]
    Unstated,
    /// A directory of region files, relative to the scenario.
    Directory(String),
    /// In the scenario itself. Addresses and places are made up: they do not matter to a rehearsal.
    Inline(Arc<RegionMap>),
}
