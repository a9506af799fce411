//! Rate limits that hold over all regions together, and keep holding while regions cannot hear each other.
//!
//! A limit of `L` per window is split into one share per region; a region admits only from its own share, so no delay,
//! loss, reordering, duplication or partition can make the regions together admit more than `L` in one slot (a slot is
//! one fixed window of civil time). Regions tell each other what they spent: for the policies that need it, for people,
//! and so that shares can be lent later.
//!
//! Two halves: [`Limiter`] is the decision function that worker threads share (atomics only), [`Limits`] the state
//! machine beside it that exchanges counters, watches the other regions and keeps durable marks. Never reads a clock,
//! a socket or a file. [`MarkLog`] lays the marks out in two files that the driver writes.
//!
//! What is guaranteed, per key and slot, counted in verdicts: `static` never more than `L`; `open` never more than `L`
//! per region, and per side of a partition `L` and what is spent within one staleness window; `closed` nothing while
//! any region is not heard. A changed count gives at most the larger of both during the change.

mod account;
mod acks;
mod bounds;
mod bucket;
mod budget;
mod calendar;
mod counter;
mod definition;
mod drip;
mod durability;
mod forecast;
mod horizon;
mod key;
mod keyed;
mod leaf;
mod ledger;
mod lender;
mod lending;
mod limiter;
mod marks;
mod message;
#[cfg(all(test, loom))]
mod models;
mod outbox;
mod pace;
mod packed;
mod peers;
mod plain;
#[allow(dead_code, reason = "the state machine does not use all of it yet")]
mod region;
mod replica;
mod rights;
mod shared;
mod shares;
mod slide;
mod sparse;
mod spend;
mod start;
mod sync;
mod table;
mod verdict;
mod windows;
mod word;

pub use account::{Loan, Row};
pub use acks::{Number, Seen};
pub use bounds::{Bound, Bounds, Case, Fleet, Promise};
pub use definition::Definition;
pub use forecast::{Demand, Level};
pub use key::Key;
pub use lender::{ANSWER_TIMEOUT, Granted, LenderHealth, LenderState, LoanReply, LoanRequest};
pub use limiter::Limiter;
pub use marks::{
    Found, MARKS_PER_PAGE, MAX_MARKS, Mark, MarkLog, MarkSequence, MarkWrite, PAGE_LEN, PageWrite, RecoveredMarks,
    Recovery, SEGMENT_LEN, SEGMENT_PAGES,
};
pub use message::{Heartbeat, Message, Neighbour, Rejected, Rows, Scope, SlotSummary};
pub use peers::{Mode, PeerState, PeerStatus};
pub use portolan_config::{Algorithm, LimitId, OnPartition, ShareChange, SharePlan, Window};
pub use region::{
    Acknowledgement, Allotment, Answer, Ask, Cell, Grant, Hold, Lease, Legacy, Question, Ranking, SHARDS, Shard,
    ShardSet, Spot, Survey, Told, Update,
};
pub use replica::{
    Event, KeyUsage, LimitUsage, Limits, LimitsConfig, OverShare, PartitionTally, PeerView, Recipient, RegionUsage,
    SlotDigest, Stats, TOP_KEYS, Tally, Waits,
};
pub use shares::base_shares;
pub use start::Start;
pub use verdict::{Admission, Charge, Claim, Denial, DenyReason, Patience, Peek, Policy, Wait, WaitReason, Waited};
pub use windows::Windows;
