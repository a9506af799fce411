//! Civil time beside the time of the scenario, and how far nodes may be off in it by what their clocks were set to: what a
//! slot that the gateway names is held against. Never asks the gateway what time it is.

use portolan_limits::Windows;
use portolan_model::Timestamp;
use tokio::time::Duration;

use crate::clock::BEGIN;

/// A moment of the scenario in civil time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// When the scenario began.
    zero: Timestamp,
    /// By how much the civil time of some node may be ahead of true time, and behind it, at most, in milliseconds.
    ahead_ms: i64,
    behind_ms: i64,
    /// When clocks were further apart last than ordinary ones are, and than is tolerated.
    skewed_ms: Option<i64>,
    unsound_ms: Option<i64>,
}

/// The clocks of all hosts.
#[derive(Debug, Default)]
pub struct Clocks {
    /// When the scenario began.
    zero: Timestamp,
    /// When they were read.
    read_at: Timestamp,
    /// By place of the host.
    readings: Vec<Reading>,
    /// By place of the region: what its nodes may take for the present.
    moments: Vec<Moment>,
    skewed_at: Option<Timestamp>,
    unsound_at: Option<Timestamp>,
    /// Until when nodes may not follow their own: they are far apart, or have leapt.
    kept_until: Timestamp,
}

/// By how much one host is ahead of true time, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// Of the region at this place.
    place: usize,
    /// Its clock.
    clock_ms: i64,
    /// Its civil time at most: after its clock was set back that goes on, at nine tenths of its pace or slower, until the
    /// clock has caught up.
    civil_ms: i64,
    /// Its civil time at least: while its clock is far ahead of others that goes on as it did.
    kept_ms: i64,
}

/// How far apart clocks are that nodes may not follow, less what word of the others may be late; and how long that may last
/// after they have met.
const APART_MS: i64 = 5_000;
const KEPT_FOR: Duration = Duration::from_secs(10);

/// How soon a node looks what time it is though nobody tells it; its workers do not follow a clock that has leapt before.
const LOOKED_WITHIN: Duration = Duration::from_secs(1);

/// What clocks of sound nodes may differ: as much a node adopts of times that others tell, beyond its own. None is ahead
/// of them all by that.
const TOLERATED_MS: i64 = 500;

/// What ordinary clocks differ by at most.
pub const SKEW_MS: i64 = 20;

/// What a drifting clock may gain between looks, and what milliseconds hide.
pub const TOLERANCE_MS: i64 = 10;

impl Clocks {
    /// The scenario begins.
    pub fn begin(&mut self, now: Timestamp) {
        self.zero = now;
        self.judge();
    }

    /// Reads the clocks of all hosts, always in the same order: the place of each one's region, and by how much it is
    /// ahead.
    pub fn read(&mut self, clocks: impl Iterator<Item = (usize, i64)>, now: Timestamp) {
        let caught_up = millis(now.since(self.read_at)) / 10;
        let clocks: Vec<(usize, i64)> = clocks.collect();
        let all = || clocks.iter().map(|(_, clock_ms)| *clock_ms);
        let apart = all().max().zip(all().min()).is_some_and(|(most, least)| most - least > APART_MS);
        let steps = || self.readings.iter().zip(all()).map(|(before, clock_ms)| clock_ms - before.clock_ms);
        let step_ms = steps().max().unwrap_or_default();
        // Those that leap together do not know it before they have heard each other.
        let kept_for = match () {
            () if apart || step_ms > APART_MS => KEPT_FOR,
            () if step_ms > TOLERATED_MS => LOOKED_WITHIN,
            () => Duration::ZERO,
        };
        self.kept_until = self.kept_until.max(now + kept_for);
        let keeps = now < self.kept_until;
        let reading = |(host, &(place, clock_ms)): (usize, &(usize, i64))| {
            let before = self.readings.get(host);
            let civil_ms = before.map_or(clock_ms, |before| clock_ms.max(before.civil_ms - caught_up));
            let kept_ms = before.filter(|_| keeps).map_or(clock_ms, |before| clock_ms.min(before.kept_ms));
            Reading { place, clock_ms, civil_ms, kept_ms }
        };
        self.readings = clocks.iter().enumerate().map(reading).collect();
        self.read_at = now;
        let widest = self.widest();
        let apart_ms = widest.ahead_ms + widest.behind_ms;
        self.skewed_at = (apart_ms > SKEW_MS).then_some(now).or(self.skewed_at);
        self.unsound_at = (apart_ms > TOLERATED_MS).then_some(now).or(self.unsound_at);
        self.judge();
    }

    /// What nodes of the region at `place` may take for the present. They tell each other what they may spend of slots.
    pub fn moment_of(&self, place: usize) -> Moment {
        self.moments.get(place).copied().unwrap_or_default()
    }

    fn judge(&mut self) {
        let places = self.readings.iter().map(|reading| reading.place + 1).max().unwrap_or_default();
        let most_ms = self.widest().ahead_ms;
        let of_place = |place| {
            let own = self.moment(|reading| reading.place == place);
            Moment { ahead_ms: most_ms.min(own.ahead_ms + TOLERATED_MS), ..own }
        };
        self.moments = (0..places).map(of_place).collect();
    }

    /// Whether no two nodes are further apart than is tolerated.
    pub fn are_sound(&self) -> bool {
        let widest = self.widest();
        widest.ahead_ms + widest.behind_ms <= TOLERATED_MS
    }

    /// What nodes anywhere may take for the present.
    pub fn widest(&self) -> Moment {
        self.moment(|_| true)
    }

    fn moment(&self, counts: impl Fn(&Reading) -> bool) -> Moment {
        let counted = || self.readings.iter().filter(|reading| counts(reading));
        let ahead_ms = counted().map(|reading| reading.civil_ms).max().unwrap_or_default();
        let behind_ms = counted().map(|reading| -reading.kept_ms).max().unwrap_or_default();
        let [skewed_ms, unsound_ms] =
            [self.skewed_at, self.unsound_at].map(|at| at.map(|at| millis(at.since(self.zero))));
        Moment { zero: self.zero, ahead_ms, behind_ms, skewed_ms, unsound_ms }
    }
}

impl Moment {
    /// The slot that `at_ms` of the scenario falls into by true time.
    pub fn slot_at(&self, windows: &Windows, at_ms: i64) -> u64 {
        let elapsed = Duration::from_millis(u64::try_from(at_ms).unwrap_or_default());
        windows.slot(BEGIN + self.zero.since(Timestamp::ZERO) + elapsed)
    }

    /// When a slot begins, in milliseconds of the scenario; before it for a negative one.
    pub fn begin(&self, windows: &Windows, slot: u64) -> i64 {
        let zero = BEGIN.as_unix_millis() + self.zero.as_nanos() / 1_000_000;
        let [begin, zero] =
            [windows.begin(slot).as_unix_millis(), zero].map(|at| i64::try_from(at).unwrap_or(i64::MAX));
        begin.saturating_sub(zero)
    }

    /// The same for who looks ahead by this much.
    pub fn ahead_by(self, span: Duration) -> Self {
        Self { ahead_ms: self.ahead_ms + millis(span), ..self }
    }

    /// By how much the civil time of a node may be ahead of true time.
    pub fn ahead_ms(&self) -> i64 {
        self.ahead_ms
    }

    /// The latest that some node may take `at_ms` of the scenario for.
    pub fn reads_ms(&self, at_ms: i64) -> i64 {
        at_ms + self.ahead_ms
    }

    /// Whether some node may have taken `at_ms` of the scenario for a moment of `slot`.
    pub fn allows(&self, windows: &Windows, slot: u64, at_ms: i64) -> bool {
        let begun = self.begin(windows, slot) <= self.reads_ms(at_ms) + TOLERANCE_MS;
        let over = self.begin(windows, slot.saturating_add(1)) < at_ms - self.behind_ms - TOLERANCE_MS;
        begun && !over
    }

    /// How many slots nodes may have charged what was admitted in a span that ends at `at_ms` and is shorter than a window
    /// by what ordinary clocks differ; `None` while clocks were further apart than is tolerated.
    pub fn slots_in_a_span(&self, window_ms: i64, at_ms: i64) -> Option<u64> {
        let of_late = |last: Option<i64>| last.is_some_and(|last| at_ms - last <= window_ms);
        match (of_late(self.skewed_ms), of_late(self.unsound_ms)) {
            (false, false) => Some(2),
            (true, false) => Some(3),
            (_, true) => None,
        }
    }

    /// The part of a sliding window that is left of the slot before once `read_ms` of the scenario has been read, in
    /// thousandths.
    pub fn left_of_before(&self, windows: &Windows, slot: u64, read_ms: i64) -> u64 {
        let (begin, end) = (self.begin(windows, slot), self.begin(windows, slot.saturating_add(1)));
        let left = end.saturating_sub(read_ms).clamp(0, end - begin);
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
        Moment { zero: Timestamp::ZERO + Duration::from_secs(5), ahead_ms: 20, ..Moment::default() }
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
        assert_eq!([9_600, 9_969, 9_970, 11_010, 11_011].map(allows), [false, false, true, true, false]);
    }

    #[test]
    fn what_is_left_of_the_slot_before_falls_to_nothing() {
        let seconds = windows(Window::Length(Duration::from_secs(1)));
        let first = seconds.slot(BEGIN + Duration::from_secs(5));
        let left = |at_ms| moment().left_of_before(&seconds, first, at_ms);
        assert_eq!([0, 250, 1010].map(left), [1000, 750, 0]);
    }

    #[test]
    fn a_span_touches_two_slots_and_a_third_while_clocks_differ() {
        let mut clocks = Clocks::default();
        let mut check = |ahead_ms, at: u64, expected| {
            clocks.read([(0, 0), (1, ahead_ms)].into_iter(), Timestamp::ZERO + Duration::from_secs(at));
            assert_eq!(clocks.moment_of(0).slots_in_a_span(1000, at as i64 * 1000), expected, "at {at} s");
        };
        check(20, 1, Some(2));
        check(21, 2, Some(3));
        check(0, 3, Some(3));
        check(0, 5, Some(2));
        check(501, 6, None);
        // Civil time is ahead until the clock has caught up, five seconds after it was set back, and a window later.
        check(0, 8, Some(3));
        check(0, 10, Some(3));
        check(0, 11, Some(3));
        check(0, 12, Some(2));
    }

    #[test]
    fn what_a_clock_was_set_to_is_over_some_time_after_it_is_set_back() {
        let mut clocks = Clocks::default();
        // Two regions; the clock of a node of the first is 2 s ahead from 5 s to 6 s.
        for (at, ahead_ms) in [(0, 5), (5, 2005), (6, 5), (16, 5), (40, 5)] {
            let now = Timestamp::ZERO + Duration::from_secs(at);
            clocks.read([(0, ahead_ms), (1, 0)].into_iter(), now);
            let ahead = [clocks.moment_of(0).ahead_ms, clocks.moment_of(1).ahead_ms];
            let expected = match at {
                5 | 6 => [[2005, 500], [1905, 500]][usize::from(at == 6)],
                16 => [905, 500],
                _ => [5, 5],
            };
            assert_eq!(ahead, expected, "at {at} s");
        }
        assert_eq!(clocks.moment_of(1).behind_ms, 0);
        clocks.read([(0, 5), (1, -3000)].into_iter(), Timestamp::ZERO + Duration::from_secs(41));
        assert_eq!((clocks.moment_of(1).behind_ms, clocks.moment_of(0).behind_ms), (3000, -5));
    }

    #[test]
    fn a_node_may_keep_its_time_while_its_clock_is_far_ahead_and_shortly_after_others_came_there() {
        let mut clocks = Clocks::default();
        let mut behind = |at: u64, clocks_ms: [i64; 2]| {
            let clocks_ms = clocks_ms.into_iter().enumerate();
            clocks.read(clocks_ms, Timestamp::ZERO + Duration::from_secs(at));
            [0, 1].map(|place| clocks.moment_of(place).behind_ms)
        };
        assert_eq!(behind(0, [0, 3]), [0, -3]);
        assert_eq!(behind(1, [0, 4_000]), [0, -3], "a node may not have looked yet");
        assert_eq!(behind(2, [0, 4_000]), [0, -4_000], "so far any node follows its clock");
        assert_eq!(behind(3, [0, 7_200_000]), [0, -4_000]);
        assert_eq!(behind(4, [7_200_000; 2]), [0, -4_000]);
        assert_eq!(behind(14, [7_200_000; 2]), [-7_200_000; 2]);
        assert_eq!(behind(15, [9_000_000; 2]), [-7_200_000; 2], "they do not know yet that they agree");
        assert_eq!(behind(26, [9_000_000; 2]), [-9_000_000; 2]);
    }
}
