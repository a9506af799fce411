//! The production driver: composes the cores and shells into one running node.
//!
//! Owns everything that touches the outside: the real clock, sockets, files and threads. Decides nothing about
//! traffic: policy lives in the cores, and the loop that drives them fits a screen (`node_loop`).

mod run;

mod node_loop;
mod questions;

mod limit_events;
pub mod mesh;
mod raft_link;
mod raft_thread;

mod marks_file;
mod probes;
mod recovery;

mod dns;

mod admin;
pub mod api;

mod metrics;
mod telemetry;

mod certificates;
mod identity;
pub mod lender;
pub mod lenders;
mod verifier;

mod clock;
mod error;
mod files;
mod nofile;
mod places;
mod throttle;

pub use certificates::{CertificateError, ReloadingPair};
pub use clock::Clock;
pub use error::Error;
pub use identity::{Identity, IdentityError, NodeIdentity};
pub use run::run;
