//! How much a node uses of a key from slot to slot, so that it can ask for that before a slot begins. A guess: the owner
//! heeds it only where there is plenty. Never decides what is asked for or granted, and never counts what may be spent: a
//! wrong guess costs a request a wait, or a key units that come back unused. Exponential smoothing.

use std::time::Duration;

/// Units that are used in a moment, smoothed over slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage(f32);

/// What a guess is for: the slot, or as much of a longer one.
pub(crate) const MOMENT: Duration = Duration::from_secs(1);

impl Usage {
    /// Takes note of what was used of a slot that lasts for `window`.
    pub fn note(&mut self, used: u64, window: Duration) {
        let part = MOMENT.as_secs_f32() / window.max(MOMENT).as_secs_f32();
        let used = used as f32 * part;
        self.0 += (used - self.0) / if used > self.0 { RISING } else { FALLING };
    }

    /// Units that nearly always last for a moment: three standard deviations above the mean of requests that come by chance
    /// (Poisson). None of a key that is used too rarely for a guess.
    pub fn wish(self) -> u64 {
        if self.0 < RARELY { 0 } else { (self.0 + 3.0 * self.0.sqrt()).ceil() as u64 }
    }
}

/// Slots that a guess looks back on, about. It falls slowly: what was asked for in vain nobody misses, what was not asked for
/// is asked for alone.
const RISING: f32 = 4.0;
const FALLING: f32 = 8.0;

/// Units in a moment below which nothing is asked for ahead.
const RARELY: f32 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_follows_what_was_used_and_ends_with_it() {
        let second = Duration::from_secs(1);
        let mut usage = Usage::default();
        let mut after = |used: &[u64], window| {
            used.iter().for_each(|&used| usage.note(used, window));
            usage.wish()
        };
        assert_eq!(after(&[], second), 0);
        assert_eq!(after(&[1], second), 2);
        assert_eq!(after(&[0], second), 0);
        assert_eq!(after(&[4; 20], second), 10);
        assert_eq!(after(&[0; 20], second), 2);
        assert_eq!(after(&[0], second), 0);
        assert_eq!(after(&[240; 20], 60 * second), 10, "of a minute it is what a second takes");
    }
}
