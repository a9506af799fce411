//! Civil time as slots are cut by it: never falls, and comes to what the clock says by going more slowly. A clock that is far
//! ahead of most others of the fleet is not followed: what is spent of slots that lie hours ahead shuts, with the death of
//! its node, every slot until then to whoever takes over. Decides nothing about requests, and never reads a clock: the
//! driver tells.

use std::time::Duration;

use portolan_model::{Now, Timestamp, WallTime};

use super::{Event, Limits};
use crate::{horizon::CLOCK_TOLERANCE, region::Ask};

/// Civil time at the last tick, and what tells how it goes on after a step back.
#[derive(Debug)]
pub(crate) struct Slew {
    ticked: Timestamp,
    before: WallTime,
    /// When another node of the region asked last for a slot that is over here.
    asked_late: Option<Timestamp>,
    /// What most clocks of the fleet showed when that was asked last, this one included; nothing if no other is known.
    fleet: Option<Now>,
    /// What this clock showed when it was last followed.
    sound: Now,
    /// It is not: it is far ahead of most, and of what it showed before.
    leapt: bool,
}

impl Slew {
    pub const fn new(now: Now) -> Self {
        let (fleet, leapt) = (None, false);
        Self { ticked: now.mono, before: now.wall, asked_late: None, fleet, sound: now, leapt }
    }
}

impl Limits {
    /// Takes in what most clocks of the fleet show, this node's included: with half of them ahead the others count. Nothing
    /// while no other node is heard: then this node's clock is followed wherever it goes.
    pub fn handle_clocks(&mut self, shown: Option<WallTime>, now: Now) {
        self.slew.fleet = shown.map(|wall| Now { wall, ..now });
        self.observe_clock(now);
    }

    pub(super) fn observe_clock(&mut self, now: Now) {
        self.keep_pace(now);
        self.shared.wall(now);
        self.last = now;
    }

    /// While the clock has leapt far ahead of most others, lets civil time go on as it did, or as theirs if they went further.
    fn keep_pace(&mut self, now: Now) {
        let Some(fleet) = self.slew.fleet else {
            (self.slew.sound, self.slew.leapt) = (now, false);
            return self.shared.set_pace(None);
        };
        let later = |seen: Now| seen.wall + now.mono.since(seen.mono);
        let (shown, kept) = (later(fleet), later(self.slew.sound));
        let ahead = now.wall.since(shown);
        // After a pause what others said before it looks old, and this clock has gone on as it should.
        // Civil time is ahead of a clock that was set back: where this returns to it, it has not leapt.
        let leapt = ahead > LEAST_LEAP && now.wall.since(kept.max(self.shared.latest())) > LEAST_LEAP;
        if leapt && !self.slew.leapt {
            self.stats.clock_leaps += 1;
            self.events.push(Event::ClockLeapt { by: ahead });
        }
        self.slew.leapt = leapt;
        if leapt {
            return self.shared.set_pace(Some(Now { wall: kept.max(shown), ..now }));
        }
        self.slew.sound = now;
        // Workers may see a leap first. So far they may be ahead in any case.
        self.shared.set_pace(Some(Now { wall: now.wall + CLOCK_TOLERANCE, ..now }));
    }

    /// Keeps civil time monotone: after a step back it goes on at nine tenths of its pace until the clock has caught up,
    /// so that slots neither reopen nor stand still. At a tenth where the other nodes of the region did not go along: they
    /// ask for slots that are over here, and have no answer till then.
    pub(super) fn slew_clock(&mut self, now: Now) {
        let Slew { ticked, before, asked_late, .. } = self.slew;
        if self.shared.reading(now) + CLOCK_STEP < self.shared.wall(now) {
            let alone = asked_late.is_some_and(|at| now.mono.since(at) < LATE);
            let tenths = if alone { 1 } else { 9 };
            // From the last tick on: what the others told meanwhile has the time since then in it.
            self.shared.raise_clock(before + now.mono.since(ticked) * tenths / 10);
        }
        (self.slew.ticked, self.slew.before) = (now.mono, self.shared.latest());
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

    /// The civil time that slots are cut by at this moment.
    pub fn wall_at(&self, now: Now) -> WallTime {
        self.shared.wall(now)
    }

    pub(super) fn wall(&self) -> WallTime {
        self.shared.wall(self.last)
    }
}

/// A smaller step back of the clock is waited out.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// By how much a clock is ahead of most others before it is not followed: more than clocks differ that anybody looks after.
const LEAST_LEAP: Duration = Duration::from_secs(10);

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

    /// Civil time by the limits of a node whose clock shows `ahead_ms` too much, less true time, in milliseconds.
    fn civil(limits: &mut Limits, millis: u64, ahead_ms: u64, shown: Option<u64>) -> i64 {
        let (now, others) = (at(millis), shown.map(|ahead_ms| at(millis).wall + Duration::from_millis(ahead_ms)));
        let seen = Now { wall: now.wall + Duration::from_millis(ahead_ms), ..now };
        // A worker reads the clock first.
        limits.shared.wall(seen);
        limits.handle_timeout(seen);
        limits.handle_clocks(others, seen);
        limits.latest().as_unix_millis() as i64 - now.wall.as_unix_millis() as i64
    }

    const HOURS: u64 = 7_200_000;

    #[test]
    fn a_clock_that_leaps_hours_ahead_of_most_others_is_not_followed() {
        let mut limits = started();
        for millis in (0..5000).step_by(100) {
            assert_eq!(civil(&mut limits, millis, 0, Some(0)), 0);
        }
        for millis in (5000..60_000).step_by(100) {
            let ahead = civil(&mut limits, millis, HOURS, Some(0));
            let most = if millis < 10_000 { CLOCK_TOLERANCE.as_millis() as i64 } else { 0 };
            assert!((0..=most).contains(&ahead), "{ahead} ms ahead after {millis} ms");
        }
        assert!(limits.durability.bequest(limits.wall()).instants()[0] <= at(65_000).wall, "no slot to come is lost");
        let leaps =
            std::iter::from_fn(|| limits.poll_event()).filter(|event| matches!(event, Event::ClockLeapt { .. }));
        assert_eq!((leaps.count(), limits.stats().clock_leaps), (1, 1));
        assert_eq!(civil(&mut limits, 60_000, 0, Some(0)), 0, "and it is well again at once");
    }

    #[test]
    fn a_clock_that_others_agree_with_is_followed_and_one_that_nobody_contradicts() {
        for shown in [Some(HOURS), Some(HOURS - 9_000), None] {
            let mut limits = started();
            civil(&mut limits, 0, 0, Some(0));
            civil(&mut limits, 100, HOURS, shown);
            assert_eq!(civil(&mut limits, 200, HOURS, shown), HOURS as i64, "{shown:?}");
        }
    }

    #[test]
    fn a_clock_that_has_gone_on_is_followed_though_what_others_showed_is_old() {
        let mut limits = started();
        civil(&mut limits, 0, 0, Some(0));
        // Stopped for a minute, it reads first what was sent when that began; and 3 s are drift.
        let now = Now { wall: at(63_000).wall, ..at(60_000) };
        limits.handle_clocks(Some(at(100).wall), now);
        assert_eq!((limits.latest(), limits.stats().clock_leaps), (now.wall, 0));
    }

    #[test]
    fn time_that_is_kept_goes_on_with_that_of_the_others_where_they_go_further() {
        let mut limits = started();
        civil(&mut limits, 0, 0, Some(0));
        civil(&mut limits, 100, HOURS, Some(0));
        assert_eq!(civil(&mut limits, 1000, HOURS, Some(HOURS / 2)), HOURS as i64 / 2);
    }

    #[test]
    fn time_goes_on_where_a_clock_that_was_set_back_with_most_is_right_again_before_them() {
        for back in [60_000, HOURS] {
            let mut limits = started();
            let behind = |millis| NOW.wall + Duration::from_millis(millis) - Duration::from_millis(back);
            let mut tick = |millis: u64, shown: WallTime| {
                let now = Now { wall: shown, ..at(millis) };
                limits.handle_timeout(now);
                limits.handle_clocks(Some(behind(millis)), now);
                limits.latest().as_unix_millis() - NOW.wall.as_unix_millis()
            };
            for millis in (100..1_800_000).step_by(100) {
                tick(millis, behind(millis));
            }
            let before = tick(1_800_000, at(1_800_000).wall);
            for millis in (1_800_100..1_810_000).step_by(100) {
                tick(millis, at(millis).wall);
            }
            let passed = tick(1_810_000, at(1_810_000).wall) - before;
            assert!((9000..=11_000).contains(&passed), "{passed} ms of 10 s, set back by {back} ms");
        }
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
