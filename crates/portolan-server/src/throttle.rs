//! Lets one line of a kind into the log per while, so that strangers cannot fill it. What is held back is told with the
//! next line; counters hold the exact numbers. Never decides what is worth a line.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Gate before one kind of log line.
#[derive(Debug)]
pub(crate) struct Throttle {
    pause: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    /// Lets a line through every `pause`.
    pub(crate) const fn new(pause: Duration) -> Self {
        Self { pause, state: Mutex::new(State { last: None, held_back: 0 }) }
    }

    /// Whether a line may be written at `now`; if so, how many were held back since the one before.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < self.pause) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_per_pause_and_tells_how_many_did_not() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        let admitted = [0, 1, 9, 10, 11, 25].map(|at| throttle.admit(start + Duration::from_secs(at)));
        assert_eq!(admitted, [Some(0), None, None, Some(2), None, Some(1)]);
    }
}
