//! Rehearses a fleet: the real node and the real Raft under virtual time, over a network, disks and faults that follow
//! from a seed. The same scenario and seed give the same run, packet for packet.
//!
//! Start reading at [`run`]; what happens inside is in `world`. Modelled: delays, loss, cuts, crashes, stopped processes,
//! disks that keep what was synced, clocks that are off, clients that follow DNS, lenders outside the regions. Not
//! modelled: the operating system, TLS, connections, and endpoints that fail. Never reads a real clock, opens a file or
//! draws an unseeded number.

mod run;

mod world;

mod drive;
mod host;
mod lenders;
mod link;
mod mail;
mod marks;
mod vault;

mod clients;
mod load;
mod waiting;

mod faults;
mod fences;
mod orders;

mod agenda;
mod chance;
mod civil;
mod clock;
mod network;
mod wire;

mod bound;
mod closed;
mod expectations;
mod hearing;
mod oracle;
mod quotas;
mod recent;
mod recorder;
mod slots;
mod splits;
mod tally;
mod trouble;
mod watch;

mod builtin;
mod replay;
mod shrink;
mod swarm;

mod outcome;
mod report;
mod series;
mod sources;
mod trace;

pub use builtin::{FOLDER as BUILT_IN, names as built_in_names, scenarios as built_in};
pub use outcome::{
    FailedExpectation, Figures, Invariant, LimitFigures, Outcome, Refusals, RegionUse, RequestCounts, Verdict,
    Violation,
};
pub use replay::replay;
pub use report::{Comparison, MAX_TOLD, Moved, Rehearsal, Report, Runs, ScenarioComparison, Terms, Trend};
pub use run::{Options, run, run_with};
pub use series::{
    DnsSeen, LimitRegionSeries, LimitSeries, MAX_LIMITS, MAX_POINTS, MAX_SLOTS, ModeSeen, RegionSeries, Series,
    SlotPoint, Span, SpanKind,
};
pub use shrink::{Shrunk, shrink};
pub use sources::{SourceError, Sources};
pub use swarm::Swarm;
pub use trace::{PacketCounts, TimedEvent};
