//! The replicated intent: openraft behind a small interface, its log on redb, its messages over any transport.
//!
//! Decides how a node keeps, replicates and recovers the log; what the log means is `portolan_config::Intent`. Time,
//! tasks and randomness come from [`Runtime`] alone, so that whole clusters run under a paused clock and repeat exactly.
//! Never reads a wall clock, opens a socket or starts a thread.

#![allow(clippy::result_large_err, reason = "openraft's StorageError is large, and ends the core when it comes")]

mod types;

mod runtime;

mod timing;

mod message;

mod disk;
mod memory_disk;
mod record;
mod saved_snapshot;

mod database;
mod facts;
mod purging;
mod store;
mod waiting;

mod log;
mod machine;

mod liveness;
mod network;

mod raft;
mod start;
mod status;

mod compaction;
mod handle;
mod handover;
mod membership;
mod propose;
mod recovery;
mod seats;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod store_tests;

pub use disk::{Directory, Disk, DiskFile};
pub use handover::StepAsideError;
pub use memory_disk::MemoryDisk;
pub use message::{MemberRequest, Request, Response, Transport, Unreachable};
pub use propose::ProposeError;
pub use raft::{Raft, RaftConfig, WallClock};
pub use runtime::{Runtime, ThreadGenerator, seed_thread};
pub use start::StartError;
pub use status::{Leadership, Role, Status};
pub use store::{Damage, Store, StoreError};
pub use timing::Timing;
pub use types::{Member, TypeConfig};
