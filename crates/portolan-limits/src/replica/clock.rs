//! Civil time as slots are cut by it: never falls, and comes to what the clock says by going more slowly. Decides nothing
//! about requests, and never reads a clock: the driver tells.

use std::time::Duration;

use portolan_model::{Now, Timestamp, WallTime};

use super::Limits;
use crate::region::Ask;

/// Civil time at the last tick, and what tells how it goes on after a step back.
#[derive(Debug)]
pub(crate) struct Slew {
    ticked: Timestamp,
    before: WallTime,
    /// When another node of the region asked last for a slot that is over here.
    asked_late: Option<Timestamp>,
}

impl Slew {
    pub const fn new(now: Now) -> Self {
        Self { ticked: now.mono, before: now.wall, asked_late: None }
    }
}

impl Limits {
    pub(super) fn observe_clock(&mut self, now: Now) {
        self.shared.wall(now);
        self.last = now;
    }

    /// Keeps civil time monotone: after a step back it goes on at nine tenths of its pace until the clock has caught up,
    /// so that slots neither reopen nor stand still. At a tenth where the other nodes of the region did not go along: they
    /// ask for slots that are over here, and have no answer till then.
    pub(super) fn slew_clock(&mut self, now: Now) {
        let Slew { ticked, before, asked_late } = self.slew;
        if now.wall + CLOCK_STEP < self.shared.wall(now) {
            let alone = asked_late.is_some_and(|at| now.mono.since(at) < LATE);
            let tenths = if alone { 1 } else { 9 };
            // From the last tick on: what the others told meanwhile has the time since then in it.
            self.shared.raise_clock(before + now.mono.since(ticked) * tenths / 10);
        }
        self.slew = Slew { ticked: now.mono, before: self.shared.latest(), asked_late };
    }

    /// Takes note of asks of another node for slots that are over here.
    pub(super) fn note_late(&mut self, asks: &[Ask], now: Now) {
        let wall = self.wall();
        let is_over = |ask: &Ask| {
            let rights = self.limiter.rights(ask.cell.limit);
            rights.is_some_and(|rights| ask.cell.slot.saturating_add(1) < rights.terms.slot(wall))
        };
        if asks.iter().any(is_over) {
            self.slew.asked_late = Some(now.mono);
        }
    }

    pub(super) fn wall(&self) -> WallTime {
        self.shared.wall(self.last)
    }
}

/// A smaller step back of the clock is waited out.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// A node that waits for an answer asks again far more often than this.
const LATE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use portolan_model::{NodeName, RegionId};

    use super::*;
    use crate::{Cell, Definition, Key, LimitId, LimitsConfig, Message, Neighbour, Recovery};

    const NOW: Now = Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(1_795_312_345_678) };

    fn at(millis: u64) -> Now {
        let passed = Duration::from_millis(millis);
        Now { mono: NOW.mono + passed, wall: NOW.wall + passed }
    }

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn started() -> Limits {
        let config = LimitsConfig { neighbours: vec![node("here-2")], ..LimitsConfig::alone() };
        let mut limits = Limits::new(config, Recovery::FirstStart, NOW);
        limits.handle_definitions(&[Definition::of_rate(1, "9/s")], NOW);
        limits
    }

    /// Another node asks for the second that its clock, which is right, is in.
    fn ask(limits: &mut Limits, now: Now) {
        let slot = now.wall.as_unix_millis() / 1000;
        let cell = Cell { limit: LimitId(1), key: Key::from_bits(7), slot };
        let [granted_by, granted, returned, spent, waiting, need, wish] = [0, 0, 0, 0, 1, 1, 1];
        let ask = Ask { cell, granted_by, granted, returned, spent, waiting, need, wish, silent: false };
        let message = Message::Neighbour(Neighbour::Asks { life: 1, asks: vec![ask] });
        let here = RegionId::new("here").expect("a name");
        limits.handle_message(&here, &node("here-2"), message, now).expect("a neighbour asks");
    }

    #[test]
    fn time_that_others_told_of_is_not_counted_again_after_a_pause() {
        let mut limits = started();
        // The clocks of the region were ahead for a moment, and this process is stopped for ten seconds after.
        limits.shared.raise_clock(NOW.wall + Duration::from_secs(9));
        limits.handle_timeout(NOW);
        limits.shared.raise_clock(NOW.wall + Duration::from_secs(18));
        limits.handle_timeout(at(10_000));
        assert_eq!(limits.latest(), NOW.wall + Duration::from_secs(18));
    }

    #[test]
    fn a_clock_that_was_ahead_alone_is_waited_for_hardly_longer_than_it_was_ahead() {
        const AHEAD: u64 = 20_000;
        // Seconds until slots are those of the clock again.
        let lasts = |asked: bool| {
            let mut limits = started();
            limits.shared.raise_clock(NOW.wall + Duration::from_millis(AHEAD));
            let mut latest = limits.latest();
            for millis in (0..300_000).step_by(100) {
                if asked {
                    ask(&mut limits, at(millis));
                }
                limits.handle_timeout(at(millis));
                assert!(limits.latest() >= latest);
                latest = limits.latest();
                if latest <= at(millis).wall + CLOCK_STEP {
                    return millis / 1000;
                }
            }
            panic!("it never catches up");
        };
        let [alone, otherwise] = [true, false].map(lasts);
        assert!((20..30).contains(&alone) && otherwise > 190, "{alone} s, {otherwise} s where nobody asks");
    }
}
