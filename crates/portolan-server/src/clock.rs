//! Reads the real clock, and is the only file that does: everything else is handed a [`Now`].
//! Decides nothing. The monotonic origin is the moment the process built its [`Clock`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portolan_model::{Now, Timestamp, WallTime};

/// The process's clock. Copies share one origin, so that their timestamps compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Starts a clock whose monotonic origin is this moment.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Reads both clocks together.
    pub fn now(&self) -> Now {
        Now { mono: self.mono(), wall: wall() }
    }

    /// The moment on Tokio's timeline at which `at` is due; a timestamp in the past is due at once.
    pub fn deadline(&self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.mono())
    }

    /// The origin itself, for a component that measures on the same timeline.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    fn mono(&self) -> Timestamp {
        Timestamp::ZERO + self.origin.elapsed()
    }
}

/// A clock set before 1970 reads as 1970: a wrong clock is the operator's to mend, not a reason to stop.
fn wall() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    WallTime::from_unix_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
