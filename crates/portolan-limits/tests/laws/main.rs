//! The laws that rows obey however they travel, against counters that others wrote as oracle.
//!
//! `PROPTEST_CASES=10000 cargo test --release -p portolan-limits --test laws` runs them as often as a release should.

mod bucket;
mod codec;
mod collection;
mod merge;
mod observer;
