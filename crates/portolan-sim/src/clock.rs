//! Virtual time: Tokio's paused clock, read as the two clocks a node has. Each node's civil clock is off by a little, as
//! real ones are, and by what faults do to it; the monotonic one is true.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use portolan_model::{Now, Timestamp, WallTime};
use rand::RngExt;
use tokio::time::{Duration, Instant};

use crate::chance;

/// Civil time at which every run begins: 2026-01-01T00:00:00Z.
pub const BEGIN: WallTime = WallTime::from_unix_millis(1_767_225_600_000);

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
}

/// The civil clock of one machine; clones are the same clock.
#[derive(Clone, Debug)]
pub struct HostClock {
    clock: Clock,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Nanoseconds ahead of true time when the drift began.
    ahead: AtomicI64,
    /// Parts per million it gains since.
    drift: AtomicI64,
    /// When the drift began.
    since: AtomicU64,
}

impl HostClock {
    /// The clock of a machine, ahead by a little.
    pub fn new(clock: Clock, seed: u64, node: &str) -> Self {
        let skew = MAX_SKEW.mul_f64(chance::stream(seed, "clock", node).random_range(0.0..1.0));
        let ahead = AtomicI64::new(i64::try_from(skew.as_nanos()).unwrap_or_default());
        Self { clock, state: Arc::new(State { ahead, drift: AtomicI64::new(0), since: AtomicU64::new(0) }) }
    }

    /// Both clocks of the machine.
    pub fn read(&self) -> Now {
        self.at(self.clock.now())
    }

    /// Both at this moment of the run.
    pub fn at(&self, mono: Timestamp) -> Now {
        let ahead = self.ahead(mono);
        let (earlier, later) = (ahead.min(0).unsigned_abs(), ahead.max(0).unsigned_abs());
        let true_time = BEGIN + mono.since(Timestamp::ZERO) + Duration::from_nanos(later);
        let millis = Duration::from_nanos(earlier).as_millis();
        let wall = true_time.as_unix_millis().saturating_sub(u64::try_from(millis).unwrap_or(u64::MAX));
        Now { mono, wall: if earlier == 0 { true_time } else { WallTime::from_unix_millis(wall) } }
    }

    /// Milliseconds that it is ahead of true time at this moment of the run.
    pub fn ahead_ms(&self, mono: Timestamp) -> i64 {
        self.ahead(mono) / 1_000_000
    }

    /// Sets the clock forward or back by this many nanoseconds.
    pub fn step(&self, nanos: i64) {
        self.state.ahead.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Lets it gain `ppm` from here on; what it gained before stays.
    pub fn drift(&self, ppm: i32) {
        let now = self.clock.now();
        self.state.ahead.store(self.ahead(now), Ordering::Relaxed);
        self.state.drift.store(ppm.into(), Ordering::Relaxed);
        self.state.since.store(now.as_nanos(), Ordering::Relaxed);
    }

    fn ahead(&self, now: Timestamp) -> i64 {
        let ahead = self.state.ahead.load(Ordering::Relaxed);
        let drift = self.state.drift.load(Ordering::Relaxed);
        if drift == 0 {
            return ahead;
        }
        let elapsed = now.as_nanos() - self.state.since.load(Ordering::Relaxed).min(now.as_nanos());
        let gained = i128::from(elapsed) * i128::from(drift) / 1_000_000;
        ahead.saturating_add(i64::try_from(gained).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_civil_clock_steps_and_drifts_while_the_other_is_true() {
        let clock = HostClock::new(Clock::start(), 1, "a-1");
        let begin = clock.read();
        let since = |clock: &HostClock| {
            let now = clock.read();
            let wall = i128::from(now.wall.as_unix_millis()) - i128::from(begin.wall.as_unix_millis());
            (now.mono.since(begin.mono).as_secs(), (wall + 500).div_euclid(1000))
        };
        clock.step(-5_000_000_000);
        assert_eq!(since(&clock), (0, -5));
        clock.step(5_000_000_000);
        clock.drift(100_000);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(since(&clock), (20, 22));
        clock.drift(0);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(since(&clock), (40, 42));
    }
}
