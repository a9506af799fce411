//! Virtual time: Tokio's paused clock, read as the two clocks a node has. Each node's civil clock is off by a little,
//! as real ones are.

use portolan_model::{Now, Timestamp, WallTime};
use rand::RngExt;
use tokio::time::{Duration, Instant};

use crate::chance;

/// Civil time at which every run begins: 2026-01-01T00:00:00Z.
const BEGIN: WallTime = WallTime::from_unix_millis(1_767_225_600_000);

/// How far a node's civil clock is ahead of true time at most; what NTP holds over the Internet.
const MAX_SKEW: Duration = Duration::from_millis(20);

/// The run's one clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begin: Instant,
}

impl Clock {
    /// Starts the run's time at this moment.
    pub fn start() -> Self {
        Self { begin: Instant::now() }
    }

    /// Time since the start.
    pub fn now(&self) -> Timestamp {
        Timestamp::ZERO + self.begin.elapsed()
    }

    /// The instant to sleep until.
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.begin + at.since(Timestamp::ZERO)
    }

    /// Both clocks as a node with this skew reads them.
    pub fn read(&self, skew: Duration) -> Now {
        let mono = self.now();
        Now { mono, wall: BEGIN + mono.since(Timestamp::ZERO) + skew }
    }
}

/// How far a node's civil clock is ahead.
pub fn skew(seed: u64, node: &str) -> Duration {
    MAX_SKEW.mul_f64(chance::stream(seed, "clock", node).random_range(0.0..1.0))
}
