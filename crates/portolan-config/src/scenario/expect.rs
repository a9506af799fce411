//! What must hold at the end of a scenario.

use std::{fmt, time::Duration};

use portolan_model::{Name, Ratio, RegionId};

/// What must hold at the end. Everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// Share of requests that got an answer other than 5xx.
    pub availability: Option<Bound<Ratio>>,
    /// Requests answered 503.
    pub unavailable: Option<Bound<u64>>,
    /// Changes of the Raft leader after the first election.
    pub leader_changes: Option<Bound<u64>>,
    /// Time from an acknowledgement until a revision was in force on every node in reach, for 99 of 100 of them.
    pub config_lag_p99: Option<Duration>,
    /// What limits do.
    pub limits: Vec<LimitExpectation>,
    /// Requests forwarded by regions.
    pub served: Vec<Served>,
    /// Longest time from the end of the last fault until all nodes agree.
    pub converged_within: Option<Duration>,
}

/// What must hold of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitExpectation {
    /// The limit.
    pub limit: Name,
    /// Units admitted in any one slot and key, over all regions: `<=` of the fullest, `>=` reached by some.
    pub per_slot: Option<Bound<u64>>,
    /// Units above the quota in the worst slot, as a share of the quota.
    pub over: Option<Bound<Ratio>>,
    /// The same, mean over slots.
    pub over_mean: Option<Bound<Ratio>>,
    /// Units refused that the quota had room for, as a share of the quota, mean over slots.
    pub false_rejects: Option<Bound<Ratio>>,
    /// Units refused with 503.
    pub unavailable: Option<Bound<u64>>,
    /// Requests that waited before they were decided, as a share of those decided.
    pub waited: Option<Bound<Ratio>>,
    /// Only slots that begin at this time or later count. Default all.
    pub from: Duration,
    /// Only slots that end by this time count. Default all.
    pub until: Option<Duration>,
}

impl LimitExpectation {
    /// Whether it is held against means over whole slots.
    pub fn asks_for_means(&self) -> bool {
        self.over_mean.is_some() || self.false_rejects.is_some()
    }
}

/// Requests forwarded by one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The region.
    pub region: RegionId,
    /// Requests.
    pub requests: Bound<u64>,
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

/// As it is written.
impl<T: fmt::Display> fmt::Display for Bound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.comparison {
            Comparison::AtLeast => ">=",
            Comparison::AtMost => "<=",
        };
        write!(f, "{sign} {}", self.value)
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
