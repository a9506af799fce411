//! Which slots a process may spend after a restart. Every slot that begins before the recovered horizon may have been
//! spent by the process before; what of it is left is known from marks, or nothing is. The floor is durable too: a
//! clock that steps back over a restart does not reopen a slot.

use std::time::Duration;

use portolan_config::SLOT_LEAD;
use portolan_model::{Now, WallTime};

use crate::{
    definition::{Slots, Terms},
    marks::Recovery,
};

/// How far ahead of its use the horizon is made durable. Before that nothing of a slot is lent, granted or published.
pub(crate) const HORIZON_LEAD: Duration = SLOT_LEAD;

/// Age at which the horizon is renewed: three renewals may fail before a slot has to wait.
pub(crate) const HORIZON_RENEWAL: Duration = Duration::from_millis(500);

/// Largest clock difference between sound regions; larger remote stamps are not adopted.
pub(crate) const CLOCK_TOLERANCE: Duration = Duration::from_millis(500);

/// Largest step back of the clock over a restart that slots bridge: they are ahead of time until it has caught up.
const MAX_RESUMED: Duration = Duration::from_secs(6 * 3600);

/// What the process before leaves to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// Slots that begin before this may have been spent.
    horizon: WallTime,
    /// Of those, the slots that end by this are over.
    floor: WallTime,
    /// Slots that begin before this give no rights: their marks were lost.
    closed: WallTime,
}

impl Barrier {
    pub fn new(recovery: &Recovery, now: Now) -> Self {
        if *recovery == Recovery::Lost { Self::of_lost(now) } else { Self::known(recovery) }
    }

    /// What a process found of those before it, and hands on with the shards that they held. One that found nothing knows of
    /// no shard: whoever stood by does, and if nobody did a shard is taken over as lost.
    pub fn known(recovery: &Recovery) -> Self {
        let never = WallTime::default();
        match recovery {
            Recovery::Marks(marks) => Self { horizon: marks.horizon, floor: marks.floor, closed: marks.closed },
            Recovery::FirstStart | Recovery::Lost => Self { horizon: never, floor: never, closed: never },
        }
    }

    /// A lost process had a horizon of at most its own clock and the lead, and that clock was near ours.
    pub fn of_lost(now: Now) -> Self {
        let horizon = now.wall + HORIZON_LEAD + CLOCK_TOLERANCE;
        Self { horizon, floor: now.wall, closed: horizon }
    }

    #[inline]
    pub const fn of(horizon: WallTime, floor: WallTime, closed: WallTime) -> Self {
        Self { horizon, floor, closed }
    }

    /// Horizon, floor and closed.
    pub const fn instants(&self) -> [WallTime; 3] {
        [self.horizon, self.floor, self.closed]
    }

    /// What this and another one leave together.
    pub fn and(&self, other: &Self) -> Self {
        let Self { horizon, floor, closed } = *other;
        Self { horizon: self.horizon.max(horizon), floor: self.floor.max(floor), closed: self.closed.max(closed) }
    }

    /// Civil time to begin with at `wall`. A clock that was set back, or had been ahead, by hours goes on from the floor,
    /// as it would have under way; else every slot would be over until it comes there again. One that was years ahead
    /// is not followed.
    pub fn resume(&self, wall: WallTime) -> WallTime {
        if self.floor.since(wall) <= MAX_RESUMED { wall.max(self.floor) } else { wall }
    }

    /// Until when the process before may have spent: zero if there was none.
    pub fn last_spent(&self) -> WallTime {
        self.horizon.max(self.closed)
    }

    /// Whether slots that begin at `begin` may have been spent before.
    pub fn reaches(&self, begin: WallTime) -> bool {
        begin < self.horizon
    }

    /// Whether `slot`, which begins at `begin`, has rights: it is not before [`first_open`](Self::first_open). Costs two
    /// comparisons for a slot that was not touched.
    #[inline]
    pub fn opens(&self, terms: &Terms, slot: u64, begin: WallTime) -> bool {
        let untouched = begin >= self.horizon && begin >= self.closed;
        let marked = || terms.marked() && begin >= self.closed && terms.end(slot) > self.floor;
        untouched || terms.slots == Slots::Endless || marked()
    }

    /// The first slot with rights.
    pub fn first_open(&self, terms: &Terms) -> u64 {
        let closed = terms.slots.beginning_from(self.closed);
        if terms.marked() {
            // A slot that is over stays over; one that was under way goes on from its marks.
            closed.max(terms.slot(self.floor))
        } else {
            closed.max(terms.slots.beginning_from(self.horizon))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::RecoveredMarks;

    fn barrier(recovery: Recovery) -> Barrier {
        Barrier::new(&recovery, Now { wall: WallTime::from_unix_millis(100_000), ..Now::default() })
    }

    #[test]
    fn who_found_nothing_hands_nothing_on() {
        assert_eq!(Barrier::known(&Recovery::Lost), Barrier::known(&Recovery::FirstStart));
        assert!(barrier(Recovery::Lost).reaches(WallTime::from_unix_millis(101_000)));
    }

    #[test]
    fn a_restart_opens_the_slots_whose_use_is_known() {
        let wall = WallTime::from_unix_millis;
        let marks = || {
            let found = RecoveredMarks { horizon: wall(102_000), floor: wall(100_000), ..RecoveredMarks::default() };
            Recovery::Marks(found)
        };
        let check = |recovery, rate: &str, expected| {
            let terms = Terms::of_rate(rate, 3);
            let open = barrier(recovery).first_open(&terms);
            assert_eq!(terms.begin(open), wall(expected), "{rate}");
        };
        check(Recovery::FirstStart, "9/s", 0);
        check(Recovery::FirstStart, "9/min", 0);
        check(marks(), "9/s", 102_000);
        check(marks(), "9/min", 60_000);
        check(Recovery::Lost, "9/s", 103_000);
        check(Recovery::Lost, "9/min", 120_000);
    }
}
