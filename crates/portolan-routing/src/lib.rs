//! Where a request goes: which route it matches, which endpoint serves it, whether a failed attempt is tried again.
//!
//! Every question is answered from an immutable snapshot and arguments; the only shared state is the atomics of the
//! [`HealthBoard`]. Never reads a clock, draws a random number, takes a lock or allocates on the request path.

mod explain;
mod health;
mod pick;
mod retry;
mod table;

pub use explain::{Candidate, Reason};
pub use health::{EndpointId, EndpointRef, Health, HealthBoard, InFlight, Outcome, ProbeOutcome};
pub use pick::{Pick, PickReason};
pub use retry::{AttemptFacts, GiveUp, Retry, RetryPolicy, Sent};
pub use table::{Found, RequestHead, RouteTable};
