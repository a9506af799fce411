//! What came of one run. Plain values; [`crate::Report`] puts them into words.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    series::Series,
    trace::{PacketCounts, TimedEvent},
};

/// One run of a scenario with one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Version of the program that ran it.
    pub program: &'static str,
    /// Hash over the scenario and all it refers to, in hexadecimal: with version and seed it fixes the run.
    pub scenario_hash: String,
    /// Fixes the run.
    pub seed: u64,
    /// The worst that happened.
    pub verdict: Verdict,
    /// Broken invariants, in order of time; bounded.
    pub violations: Vec<Violation>,
    /// Expectations of the scenario that did not hold.
    pub failed_expectations: Vec<FailedExpectation>,
    /// What was measured.
    pub figures: Figures,
    /// Equal for equal runs, in hexadecimal.
    pub trace_hash: String,
    /// What happened, for people; bounded.
    pub events: Vec<TimedEvent>,
    /// What it looked like over time; bounded.
    pub series: Series,
}

/// How a run ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything held.
    Pass,
    /// Every invariant held, some expectation of the scenario did not.
    ExpectationFailed,
    /// Something happened that must never happen.
    InvariantBroken,
}

impl Verdict {
    /// The exit code of the command line: 0, 1 or 2.
    pub const fn exit_code(self) -> u8 {
        self as u8
    }
}

/// What must hold in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Invariant {
    /// No slot of a limit admits more than its policy allows, counted from the verdicts.
    LimitBound,
    /// A term has at most one leader, or leaders that supersede each other: openraft orders votes by term and member id,
    /// so a candidate with a greater id may take a term over, as if the term were a higher one.
    OneLeaderPerTerm,
    /// A revision is the same document on every node.
    OneDocumentPerRevision,
    /// A revision that was acknowledged stays in the history of every node.
    AcknowledgedRevisionKept,
    /// The revision in force on a node never falls, unless its disk was lost.
    RevisionNeverFalls,
    /// A known name has an address, and never that of a region that is down or drained while another serves.
    DnsAnswer,
    /// Some time after the last fault what every region has room for by its own share is refused nowhere.
    RoomIsGiven,
    /// After the last fault all nodes agree on revision, leader and counters within the time that is expected.
    Converges,
}

impl Invariant {
    /// The invariant in a few words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::LimitBound => "no limit is exceeded",
            Self::OneLeaderPerTerm => "a term has at most one leader",
            Self::OneDocumentPerRevision => "a revision is one document",
            Self::AcknowledgedRevisionKept => "an acknowledged revision is kept",
            Self::RevisionNeverFalls => "the revision of a node never falls",
            Self::DnsAnswer => "a known name is answered with a region that serves",
            Self::RoomIsGiven => "nothing is refused that has room",
            Self::Converges => "all nodes agree after the last fault",
        }
    }
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Milliseconds from the start.
    pub at_ms: u64,
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub detail: String,
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedExpectation {
    /// As the scenario has it.
    pub expected: String,
    /// What was measured.
    pub actual: String,
}

/// What was measured in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Virtual time that passed, the settling at the end included.
    pub virtual_ms: u64,
    /// What became of the requests.
    pub requests: RequestCounts,
    /// Requests forwarded by each region.
    pub forwarded_by_region: BTreeMap<String, u64>,
    /// By limit.
    pub limits: BTreeMap<String, LimitFigures>,
    /// DNS queries that were asked.
    pub dns_queries: u64,
    /// Revisions that an operator was told are accepted.
    pub acknowledged_revisions: u64,
    /// Orders that were refused or not acknowledged.
    pub unacknowledged_orders: u64,
    /// Longest time from an acknowledgement until every node that was up and reachable had the revision in force.
    pub slowest_activation_ms: Option<u64>,
    /// The same for 99 of 100 revisions.
    pub config_lag_p99_ms: Option<u64>,
    /// Changes of the leader after the first election.
    pub leader_changes: u64,
    /// Time without any leader after the first election.
    pub leaderless_ms: u64,
    /// From the end of the last fault until all nodes agreed on revision and leader.
    pub agreed_after_ms: Option<u64>,
    /// From the last request until all regions had equal digests of all live slots.
    pub counters_agreed_after_ms: Option<u64>,
    /// Packets of the mesh.
    pub packets: PacketCounts,
}

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestCounts {
    /// All.
    pub sent: u64,
    /// Passed to an endpoint.
    pub forwarded: u64,
    /// Of those, the ones that the endpoint gave no answer to: 502.
    pub failed: u64,
    /// 429: a limit was in force.
    pub limited: u64,
    /// Another 4xx: no route, or a method that is not taken.
    pub rejected: u64,
    /// 503: a limit was degraded or closed, a mark was not on disk in time, or no endpoint was left.
    pub unavailable: u64,
    /// No answer: the gateway was down.
    pub unanswered: u64,
}

impl RequestCounts {
    /// Requests that got an answer other than 5xx.
    pub const fn answered_well(&self) -> u64 {
        self.forwarded - self.failed + self.limited + self.rejected
    }
}

/// What was measured of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitFigures {
    /// The quota of a slot.
    pub quota: u64,
    /// The most that the policy allows in one slot over all regions.
    pub bound: u64,
    /// The most that was admitted in one slot.
    pub most_admitted: u64,
    /// Slots and keys that were charged.
    pub slots: u64,
    /// Length of a slot; 0 for a limit without slots.
    pub window_ms: u64,
    /// Units asked for.
    pub demanded: u64,
    /// Units admitted.
    pub admitted: u64,
    /// Units refused, and why.
    pub refused: Refusals,
    /// Units admitted above the quota, mean over slots, in parts per million of the quota.
    pub over_mean_ppm: u64,
    /// The same in the worst slot.
    pub over_most_ppm: u64,
    /// `max(0, min(demand, quota) - admitted)` of a slot, mean over slots, in parts per million of the quota. Only slots
    /// that began and ended within the scenario count.
    pub false_rejects_ppm: u64,
    /// The same in the worst slot.
    pub false_rejects_most_ppm: u64,
    /// Slots that the two figures above are taken from.
    pub whole_slots: u64,
    /// Requests that waited before they were decided.
    pub waited: u64,
    /// Mean wait of those.
    pub wait_mean_us: u64,
    /// Admitted and refused by each region.
    pub by_region: BTreeMap<String, RegionUse>,
}

/// Units refused under a limit, by what the client was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusals {
    /// 429: the limit was in force.
    pub limited: u64,
    /// 503: the limit was degraded or closed, and our own state refused.
    pub degraded: u64,
    /// 503: nothing could be decided in time, for a mark, an owner or the limits of a starting node.
    pub undecided: u64,
}

/// What one region did under a limit, in units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegionUse {
    /// Admitted.
    pub admitted: u64,
    /// Refused.
    pub refused: Refusals,
}
