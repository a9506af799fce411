//! What end-to-end tests are made of: a fleet of real processes on its own loopback network, a load client that counts
//! what was admitted per slot, and waiting with a deadline.
//!
//! Decides nothing about the product; it is driven through the binary alone, as a user would. One fleet runs at a time in
//! a test process: figures would mean nothing otherwise.

mod binary;
mod document;
mod fleet;
mod load;
mod network;
mod redis;
mod wait;
mod web;

pub use binary::{binary, root};
pub use document::Document;
pub use fleet::{Fleet, Options};
pub use load::{Admissions, Load, Report, Sample, Target};
pub use network::Network;
pub use redis::{Redis, Relay};
pub use wait::{until, within};
pub use web::{Admin, Answer, Client, Host, dns};
