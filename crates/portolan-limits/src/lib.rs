//! Rate limits that hold over all regions together, and keep holding while regions cannot hear each other.
//!
//! A limit of `L` per window is split into one share per region; a region admits only from its own share, so no delay,
//! loss, reordering, duplication or partition can make the regions together admit more than `L` in one slot (a slot is
//! one fixed window of civil time). Regions tell each other what they spent: for the policies that need it, for people,
//! and so that lending shares can come next.
//!
//! Two halves: [`Limiter`] is the decision function that worker threads share (atomics only), [`Limits`] the state
//! machine beside it that exchanges counters, watches the other regions and keeps durable marks. Never reads a clock,
//! a socket or a file. Design: `docs/` and the rules there on what keeps the bound.

mod definition;
mod key;
mod limiter;
mod marks;
mod message;
mod peers;
mod replica;
mod verdict;
mod word;

pub use definition::Definition;
pub use key::Key;
pub use limiter::Limiter;
pub use marks::{Mark, MarkSequence, MarkWrite, RecoveredMarks, Recovery};
pub use message::{Message, Rejected};
pub use peers::{Mode, PeerState, PeerStatus};
pub use portolan_config::{LimitId, OnPartition};
pub use replica::{Event, LimitUsage, Limits, LimitsConfig, SlotDigest, Stats};
pub use verdict::{Admission, Charge, Claim, Denial, DenyReason, Peek};
