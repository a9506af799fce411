//! The production driver: composes the cores and shells into one running node.
//!
//! Owns everything that touches the outside: the real clock, sockets, files and threads. Decides nothing about
//! traffic: policy lives in the cores, and the loop that drives them fits a screen (`node_loop`).

mod run;

mod error;

pub mod dns;

pub mod certificates;
pub mod clock;
pub mod identity;
pub mod mesh;
pub mod verifier;

pub use error::Error;
pub use run::run;
