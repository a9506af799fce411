//! What a run looked like over time: columns of equal length, one value per point, small enough for one page.
//!
//! Never decides anything: figures and verdicts come from the oracle. A point is a second of a short run and more of a
//! long one, so that no column is longer than [`MAX_POINTS`].

use portolan_limits::Mode;
use serde::Serialize;

/// Most points of a column.
pub const MAX_POINTS: usize = 600;

/// Limits that have columns of their own: those that refused most, then those that were asked most.
pub const MAX_LIMITS: usize = 12;

/// Slots that are kept of one limit.
pub const MAX_SLOTS: usize = 600;

/// A run over time. Empty for a run that never began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Series {
    /// Length of a point; point `i` begins at `i * step_ms` of the scenario.
    pub step_ms: u64,
    /// Points of every column.
    pub points: usize,
    /// Faults and orders, in the order of their beginning.
    pub spans: Vec<Span>,
    /// By region, in the order of their names.
    pub regions: Vec<RegionSeries>,
    /// Limits, most refused first; at most [`MAX_LIMITS`].
    pub limits: Vec<LimitSeries>,
    /// Name of the node that led at the end of the point; empty for none.
    pub leader: Vec<String>,
    /// Newest revision in force anywhere.
    pub revision: Vec<u64>,
}

/// Something with a beginning and perhaps an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Milliseconds from the start.
    pub from_ms: u64,
    /// When it ended; `None` for a moment, and for what lasted to the end (see [`SpanKind`]).
    pub until_ms: Option<u64>,
    /// What kind.
    pub kind: SpanKind,
    /// In words, as the scenario has it.
    pub what: String,
    /// The regions it touches; empty for all.
    pub regions: Vec<String>,
}

/// Kinds of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanKind {
    /// A fault; without an end it lasted to the end of the run.
    Fault,
    /// An operator's order: a moment.
    Order,
    /// A change of load.
    Load,
}

/// One region over time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegionSeries {
    /// Its name.
    pub region: String,
    /// Requests that reached it, or should have.
    pub sent: Vec<u64>,
    /// Passed to an endpoint.
    pub forwarded: Vec<u64>,
    /// Answered 429.
    pub limited: Vec<u64>,
    /// Answered 503.
    pub unavailable: Vec<u64>,
    /// Not answered.
    pub unanswered: Vec<u64>,
    /// Nodes that serve, at the end of the point.
    pub nodes_ready: Vec<u32>,
    /// Oldest revision in force on a node of it; 0 for none up.
    pub revision: Vec<u64>,
    /// Weakest mode of its limits.
    pub mode: Vec<ModeSeen>,
    /// How the fleet's DNS sees it: as most nodes of other regions have it.
    pub dns: Vec<DnsSeen>,
    /// Milliseconds since the worst of its nodes heard each peer region, in the order of all regions; the own one is 0.
    pub view_age_ms: Vec<Vec<u64>>,
}

/// The mode of a region's limits at a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeSeen {
    /// Everyone is heard.
    #[default]
    Healthy,
    /// Someone is missing without effect so far, or was missing and speaks again.
    Unsettled,
    /// The policy for partitions is in force.
    Degraded,
    /// No node runs.
    Down,
}

impl From<Mode> for ModeSeen {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Healthy => Self::Healthy,
            Mode::Degraded => Self::Degraded,
            _ => Self::Unsettled,
        }
    }
}

/// A region in the eyes of DNS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsSeen {
    /// Clients are sent there.
    #[default]
    Serving,
    /// Drained.
    Draining,
    /// Gone, drained or not.
    Down,
}

/// One limit over time, and slot by slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitSeries {
    /// Its name.
    pub limit: String,
    /// Units of a slot.
    pub quota: u64,
    /// Length of a slot; 0 for a limit without slots.
    pub window_ms: u64,
    /// By region, in the order of their names; all keys together.
    pub regions: Vec<LimitRegionSeries>,
    /// The key that was asked most, in words.
    pub key: String,
    /// Slots of that key, in the order of time; the last [`MAX_SLOTS`] are kept.
    pub slots: Vec<SlotPoint>,
}

/// One limit in one region over time, in units of the limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitRegionSeries {
    /// Its name.
    pub region: String,
    /// Admitted.
    pub admitted: Vec<u64>,
    /// Refused with 429.
    pub limited: Vec<u64>,
    /// Refused with 503.
    pub degraded: Vec<u64>,
    /// What the region may spend in the running slot of [`LimitSeries::key`], loans counted, as its ledger has it;
    /// empty where it was not measured.
    pub rights: Vec<u64>,
    /// Of its base, lent to others in that slot; empty where it was not measured.
    pub lent: Vec<u64>,
    /// Borrowed from others in that slot; empty where it was not measured.
    pub borrowed: Vec<u64>,
}

/// One slot of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotPoint {
    /// Number of the slot, as the gateway charged it.
    pub slot: u64,
    /// Milliseconds from the start at which it was charged first.
    pub from_ms: u64,
    /// Units that were asked for in it, of a limit of concurrency at one time, as far as this shows: refusals are counted at
    /// the slot of their moment.
    pub demand: u64,
    /// Admitted by each region, in the order of their names; of a limit of concurrency the most at one time in each.
    pub admitted: Vec<u64>,
    /// What may be admitted over all regions.
    pub bound: u64,
    /// What the limit says.
    pub quota: u64,
}
