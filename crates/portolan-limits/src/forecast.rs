//! How much a region will be asked for: a short average within the slot, one over slots for the next, and a margin of
//! one standard deviation on top. What was refused counts as asked for: else a starved region looks idle. Reads no clock.
//! Arithmetic is IEEE addition, multiplication, division and square root alone, so all machines agree.

use portolan_model::Timestamp;
use serde::{Deserialize, Serialize};

/// What a region tells of its demand: 4 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Units a second.
    pub rate: Level,
    /// Units over the next slot.
    pub next: Level,
}

/// A number of units in 16 bits: 11 bits of mantissa and 5 of exponent, from 1/64 to 6.8e10, exact to 1/1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level(pub(crate) u16);

/// The demand for one key in one region, measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Units a second, over the last part of the slot.
    rate: f64,
    /// Units a slot, over the last few slots; nothing before the first whole one.
    per_slot: Option<f64>,
    slot: u64,
    /// Asked for in this slot so far.
    asked: f64,
    /// Whether the slot has been seen from its begin.
    whole: bool,
    /// When it was seen first.
    begun: Timestamp,
    since: Timestamp,
}

impl Demand {
    /// `rate` in units a second, `next` in units over the next slot.
    pub fn new(rate: f64, next: f64) -> Self {
        Self { rate: Level::new(rate), next: Level::new(next) }
    }

    /// Whether this is so far from what was told that the others should hear of it at once.
    pub fn differs(self, told: Self) -> bool {
        let (now, before) = (self.rate.units(), told.rate.units());
        (now - before).abs() > before.max(SMALL_RATE) * NOTABLE_CHANGE
    }

    /// Whether this is the first that is told of demand, or differs from what was told.
    pub fn is_news(self, told: Self) -> bool {
        self.differs(told) || (told == Self::default() && self != told)
    }
}

impl Level {
    /// Rounds to the nearest level.
    pub fn new(units: f64) -> Self {
        let mut mantissa = (units * 64.0 + 0.5).clamp(0.0, 1e13) as u64;
        let mut exponent = 0u16;
        while mantissa > 2047 && exponent < 31 {
            mantissa = mantissa.div_ceil(2);
            exponent += 1;
        }
        Self(exponent << 11 | (mantissa.min(2047) as u16))
    }

    /// The number.
    pub fn units(self) -> f64 {
        ((u64::from(self.0 & 0x7ff)) << (self.0 >> 11)) as f64 / 64.0
    }
}

impl Flow {
    pub const fn new(slot: u64, now: Timestamp) -> Self {
        Self { rate: 0.0, per_slot: None, slot, asked: 0.0, whole: false, begun: now, since: now }
    }

    /// Takes in what was asked for since the last call: in the slot that was known then, and in `slot` if that is another. It
    /// is one reading of the rate: of a slot that ended in refusals the part before the turn alone would look like a lull.
    /// Units come `lump` at a time.
    pub fn record(&mut self, (before, here): (u64, u64), lump: u64, slot: u64, window: f64, now: Timestamp) {
        let within = span(window);
        let elapsed = now.since(self.since).as_secs_f64();
        self.asked += before as f64;
        if slot > self.slot {
            self.roll(slot, now);
        }
        self.asked += here as f64;
        let asked = before + here;
        if elapsed <= 0.0 {
            // A second reading at one instant: its units join the next interval's.
            self.rate += asked as f64 / within;
            return;
        }
        self.since = now;
        let jumps = unlikely(asked as f64, self.rate * elapsed, lump as f64);
        let weight = if jumps { JUMP } else { elapsed / (elapsed + within) };
        self.rate += (asked as f64 / elapsed.max(SHORTEST_READING) - self.rate) * weight;
        self.rate = self.rate.max(0.0);
    }

    fn roll(&mut self, slot: u64, now: Timestamp) {
        let missed = slot - self.slot - 1;
        if self.whole || self.per_slot.is_some() {
            let before = self.per_slot.unwrap_or(self.asked);
            let weight = if unlikely(self.asked, before, 1.0) { 1.0 } else { SLOT_WEIGHT };
            let mut average = before + (self.asked - before) * weight;
            for _ in 0..missed.min(8) {
                average -= average * SLOT_WEIGHT;
            }
            self.per_slot = Some(average);
        }
        (self.slot, self.asked, self.whole, self.begun) = (slot, 0.0, true, now);
    }

    /// Units a second in slots of `window` seconds. Of few requests the last ones say little: this slot and those before it
    /// then count for more.
    pub fn rate(&self, window: f64) -> f64 {
        let Some(average) = self.per_slot else { return self.rate };
        let seconds = window * REMEMBERED + self.since.since(self.begun).as_secs_f64();
        let slow = (average * REMEMBERED + self.asked) / seconds;
        let counted = self.rate.max(slow) * span(window);
        slow + (self.rate - slow) * counted / (counted + TRUSTED)
    }

    /// Expected over the next slot, of `window` seconds, while `left` seconds of this one are to come.
    pub fn next(&self, window: f64, left: f64) -> f64 {
        // This slot is worth the more the more of it is known.
        let rate = self.rate(window);
        let projected = if self.whole { self.asked + rate * left } else { rate * window };
        match self.per_slot {
            Some(average) => {
                let known = (1.0 - left / window).clamp(0.0, 1.0);
                average + (projected - average) * SLOT_WEIGHT * known
            }
            None => projected,
        }
    }

    pub fn demand(&self, window: f64, left: f64) -> Demand {
        Demand::new(self.rate(window), self.next(window, left))
    }
}

/// Whether a count is three standard deviations of a Poisson process of lumps from what was expected: demand has jumped, and
/// an average over the time before would only hide it.
fn unlikely(count: f64, expected: f64, lump: f64) -> bool {
    let off = count - expected;
    off * off > 9.0 * count.max(expected).max(1.0) * lump
}

/// An expectation with one standard deviation of a Poisson process on top.
pub(crate) fn with_margin(units: f64) -> f64 {
    units + units.max(0.0).sqrt()
}

/// Seconds that the average within a slot of `window` seconds spans.
fn span(window: f64) -> f64 {
    (window * SPAN).clamp(SHORTEST_SPAN, LONGEST_SPAN)
}

/// The part of a slot that the average within it spans, and the fewest and most seconds.
const SPAN: f64 = 0.1;
const SHORTEST_SPAN: f64 = 0.3;
const LONGEST_SPAN: f64 = 6.0;

/// The part of a slot that the slots before weigh as much as.
const REMEMBERED: f64 = 0.25;

/// Requests within that span that weigh as much as the slots before.
const TRUSTED: f64 = 2.0;

/// What a reading weighs when demand has jumped: more than itself, since the jump fell somewhere within it.
const JUMP: f64 = 0.9;

/// Seconds that a reading counts for at least: a few requests at one instant are no rate.
const SHORTEST_READING: f64 = 0.05;

/// What the latest slot weighs in the average over slots.
const SLOT_WEIGHT: f64 = 0.5;

/// A change of demand that is told at once, and the rate below which none is notable.
const NOTABLE_CHANGE: f64 = 0.25;
const SMALL_RATE: f64 = 10.0;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    #[test]
    fn a_level_is_exact_to_a_thousandth_over_its_range() {
        for units in [0.0, 0.5, 1.0, 31.0, 33.3, 1000.0, 123_456.0, 6.8e10] {
            let level = Level::new(units).units();
            assert!((level - units).abs() <= (units * 0.001).max(1.0 / 128.0), "{units} became {level}");
        }
        assert_eq!(Level::new(-1.0).units(), 0.0);
    }

    #[test]
    fn a_steady_flow_is_forecast_after_a_slot_and_a_half() {
        let mut flow = Flow::new(0, at(0));
        for tick in 1..=25u64 {
            flow.record((0, 30), 1, tick / 10, 1.0, at(tick * 100));
        }
        assert!((flow.rate(1.0) - 300.0).abs() < 10.0, "{}", flow.rate(1.0));
        assert!((flow.next(1.0, 0.5) - 300.0).abs() < 15.0, "{}", flow.next(1.0, 0.5));
    }

    #[test]
    fn a_chunk_that_another_node_was_granted_is_no_jump_of_demand() {
        let rate = |lump| {
            let mut flow = Flow::new(0, at(0));
            (1..=600).for_each(|tick| {
                flow.record((0, if tick % 10 == 0 { 90 } else { 0 }), lump, 0, 86_400.0, at(tick * 100))
            });
            flow.rate(86_400.0)
        };
        assert!((rate(90) - 90.0).abs() < 20.0 && rate(1) > 400.0, "{} {}", rate(90), rate(1));
    }

    #[test]
    fn demand_that_ends_is_forgotten_within_a_second_and_over_slots() {
        let mut flow = Flow::new(0, at(0));
        (1..=30).for_each(|tick| flow.record((0, 30), 1, tick / 10, 1.0, at(tick * 100)));
        (31..=60).for_each(|tick| flow.record((0, 0), 1, tick / 10, 1.0, at(tick * 100)));
        assert!(flow.rate(1.0) < 2.0 && flow.next(1.0, 0.9) < 60.0, "{} {}", flow.rate(1.0), flow.next(1.0, 0.9));
        flow.record((0, 0), 1, 100, 1.0, at(100_000));
        assert!(flow.next(1.0, 1.0) < 1.0);
    }

    #[test]
    fn a_change_by_a_quarter_is_notable() {
        let told = Demand::new(100.0, 100.0);
        assert!(Demand::new(130.0, 100.0).differs(told) && Demand::new(70.0, 100.0).differs(told));
        assert!(!Demand::new(120.0, 500.0).differs(told));
        assert!(!Demand::new(2.0, 2.0).differs(Demand::new(1.0, 1.0)));
        let (some, none) = (Demand::new(1.0, 9.0), Demand::default());
        assert!(some.is_news(none) && !some.is_news(some) && !none.is_news(some) && !none.is_news(none));
        assert!(Demand::new(500.0, 500.0).is_news(told));
    }
}
