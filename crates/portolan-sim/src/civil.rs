//! Civil time beside the time of the scenario, and how far clocks have been off in it: what a slot that the gateway names
//! is held against. Never asks the gateway what time it is.

use portolan_limits::Windows;
use portolan_model::Timestamp;
use tokio::time::Duration;

use crate::clock::BEGIN;

/// A moment of the scenario in civil time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// When the scenario began.
    pub zero: Timestamp,
    /// By how much some clock has been ahead of true time so far, and behind it, at most, in milliseconds.
    pub ahead_ms: i64,
    /// See above.
    pub behind_ms: i64,
}

/// What a clock may be off beside what it was set to: readings are a look apart.
const TOLERANCE_MS: i64 = 500;

impl Moment {
    /// When a slot begins, in milliseconds of the scenario; before it for a negative one.
    pub fn begin(&self, windows: &Windows, slot: u64) -> i64 {
        let zero = BEGIN.as_unix_millis() + self.zero.as_nanos() / 1_000_000;
        let [begin, zero] =
            [windows.begin(slot).as_unix_millis(), zero].map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        begin.saturating_sub(zero)
    }

    /// Whether some clock may have read a moment of `slot` at `at_ms` of the scenario.
    pub fn allows(&self, windows: &Windows, slot: u64, at_ms: i64) -> bool {
        let begun = self.begin(windows, slot) <= at_ms + self.ahead_ms + TOLERANCE_MS;
        let over = self.begin(windows, slot.saturating_add(1)) < at_ms - self.behind_ms - TOLERANCE_MS;
        begun && !over
    }

    /// The part of a sliding window that is left of the slot before at `at_ms`, in thousandths: by the clock that is
    /// furthest ahead, so that no region may count less.
    pub fn left_of_before(&self, windows: &Windows, slot: u64, at_ms: i64) -> u64 {
        let (begin, end) = (self.begin(windows, slot), self.begin(windows, slot.saturating_add(1)));
        let left = end.saturating_sub(at_ms + self.ahead_ms).clamp(0, end - begin);
        u64::try_from(left * 1000 / (end - begin).max(1)).unwrap_or_default()
    }
}

/// A span in milliseconds.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use portolan_config::{Algorithm, Period, Window};

    use super::*;

    fn windows(window: Window) -> Windows {
        Windows::of(&Algorithm::FixedWindow { quota: 10, window })
    }

    fn moment() -> Moment {
        Moment { zero: Timestamp::ZERO + Duration::from_secs(5), ahead_ms: 20, behind_ms: 0 }
    }

    #[test]
    fn a_day_begins_at_its_midnight_and_not_years_ahead() {
        let days = windows(Window::Calendar { period: Period::Day, zone: "UTC".into() });
        let today = days.slot(BEGIN);
        // Runs begin at midnight, and this scenario five seconds after it.
        assert_eq!(moment().begin(&days, today), -5_000);
        assert_eq!(moment().begin(&days, today + 1), 86_395_000);
    }

    #[test]
    fn a_slot_is_allowed_while_some_clock_may_read_it() {
        let seconds = windows(Window::Length(Duration::from_secs(1)));
        let first = seconds.slot(BEGIN + Duration::from_secs(5));
        let allows = |at_ms| moment().allows(&seconds, first + 10, at_ms);
        assert_eq!([9_400, 9_500, 11_400, 11_600].map(allows), [false, true, true, false]);
    }

    #[test]
    fn what_is_left_of_the_slot_before_falls_to_nothing() {
        let seconds = windows(Window::Length(Duration::from_secs(1)));
        let first = seconds.slot(BEGIN + Duration::from_secs(5));
        let left = |at_ms| moment().left_of_before(&seconds, first, at_ms);
        assert_eq!([-20, 230, 990].map(left), [1000, 750, 0]);
    }
}
