//! The slots of one counter, newest last, and sums over those that are closed.

use std::collections::{BTreeMap, VecDeque};

use portolan_model::Timestamp;

use crate::{bound::Bucket, civil::TOLERANCE_MS};

/// Slots of a counter that stay open: those that clocks of the fleet may be in at one time, and of a counter that is drawn
/// those that the drawing shows. A clock that is set back may return to any slot: what was admitted in one is kept.
const OPEN: usize = 32;
const OPEN_IF_DRAWN: usize = 128;

/// What was asked and admitted in one slot, over all regions.
#[derive(Clone, Debug, Default)]
pub struct Slot {
    /// Its number, as the gateway charged it.
    pub slot: u64,
    /// When it began, in milliseconds of the scenario; before it for a negative one.
    pub begins_ms: i64,
    /// When it was asked first, in milliseconds of the scenario.
    pub from_ms: u64,
    /// The latest that a node may have taken a moment for at which it admitted something, in milliseconds of the scenario.
    pub read_ms: i64,
    /// Units asked for.
    pub demand: u64,
    /// Units admitted.
    pub admitted: u64,
    /// Those of them that regions admitted which an operator has vouched to be dead.
    pub excused: u64,
    /// What the limit says.
    pub quota: u64,
    /// What the policy allows.
    pub bound: u64,
    /// Whether it was told that the bound is exceeded.
    pub told: bool,
    /// Whether figures have it already: it was closed before a clock came back to it.
    pub counted: bool,
    /// Admitted by region; empty where that is not remembered.
    pub by_region: Vec<u64>,
}

impl Slot {
    /// Units admitted that count.
    pub fn spent(&self) -> u64 {
        self.admitted - self.excused
    }

    /// When it began, or was asked first by a clock that was ahead.
    pub fn since_ms(&self) -> i64 {
        self.begins_ms.min(i64::try_from(self.from_ms).unwrap_or(i64::MAX))
    }

    /// Takes in what of a limit of concurrency is under way, `excused` of it in regions that are vouched to be dead.
    pub fn take_live(&mut self, live: u64, excused: u64) {
        let counts = self.spent().max(live - excused);
        self.admitted = self.admitted.max(live);
        self.excused = self.admitted - counts.min(self.admitted);
    }

    /// Whether it lies within a scenario of that length, if it lasts `lasts_ms`.
    pub fn lies_within(&self, length_ms: i64, lasts_ms: i64) -> bool {
        self.begins_ms >= 0 && self.begins_ms.saturating_add(lasts_ms) <= length_ms
    }

    /// Counts what was asked for. While a limit changes, the larger of both quotas holds.
    pub fn ask(&mut self, cost: u64, quota: u64, bound: u64) {
        self.demand += cost;
        self.quota = self.quota.max(quota);
        self.bound = self.bound.max(bound);
    }

    /// Counts what was asked for at one time, of a limit of concurrency.
    pub fn ask_at_one_time(&mut self, wanted: u64, quota: u64, bound: u64) {
        self.demand = self.demand.max(wanted);
        self.ask(0, quota, bound);
    }
}

/// Slots of one counter.
#[derive(Debug)]
pub struct Slots {
    /// In order.
    open: VecDeque<Slot>,
    most_open: usize,
    /// Those that are closed, in order.
    closed: Vec<Closed>,
}

/// What is kept of a slot that is closed.
#[derive(Clone, Copy, Debug)]
struct Closed {
    slot: u64,
    /// Admitted, and counts.
    spent: u64,
    bound: u64,
}

impl Slots {
    /// Of a counter that is `drawn`, or not.
    pub fn new(drawn: bool) -> Self {
        let most_open = if drawn { OPEN_IF_DRAWN } else { OPEN };
        Self { open: VecDeque::new(), most_open, closed: Vec::new() }
    }

    /// The slot of that number; `close` is given one that no longer fits, once.
    pub fn at(&mut self, slot: u64, begins_ms: i64, now_ms: i64, mut close: impl FnMut(&Slot)) -> &mut Slot {
        let later = self.open.iter().rev().take_while(|kept| kept.slot > slot).count();
        let mut at = self.open.len() - later;
        if at == 0 || self.open[at - 1].slot != slot {
            let new = Slot { slot, begins_ms, read_ms: i64::MIN, from_ms: now_ms.unsigned_abs(), ..Slot::default() };
            let again = self.place_of(slot).ok().map(|place| self.closed.remove(place));
            self.open.insert(
                at,
                match again {
                    Some(Closed { spent, bound, .. }) => Slot { admitted: spent, bound, counted: true, ..new },
                    None => new,
                },
            );
            at += 1;
            if self.open.len() > self.most_open && at > 1 {
                let over = self.open.pop_front().expect("there is more than one");
                let closed = Closed { slot: over.slot, spent: over.spent(), bound: over.bound };
                let place = self.place_of(over.slot).unwrap_or_else(|place| place);
                self.closed.insert(place, closed);
                if !over.counted {
                    close(&over);
                }
                at -= 1;
            }
        }
        &mut self.open[at - 1]
    }

    /// Takes back what was asked and admitted in a slot, as far as that is remembered.
    pub fn refund(&mut self, slot: u64, cost: u64, place: usize) {
        if let Some(kept) = self.open.iter_mut().rev().find(|kept| kept.slot == slot) {
            kept.demand = kept.demand.saturating_sub(cost);
            kept.admitted = kept.admitted.saturating_sub(cost);
            kept.excused = kept.excused.min(kept.admitted);
            if let Some(of_region) = kept.by_region.get_mut(place) {
                *of_region = of_region.saturating_sub(cost);
            }
        } else if let Ok(place) = self.place_of(slot) {
            let spent = &mut self.closed[place].spent;
            *spent = spent.saturating_sub(cost);
        }
    }

    /// What was admitted in a slot and counts.
    pub fn spent(&self, slot: u64) -> u64 {
        let mut from = self.open.iter().rev().take_while(|kept| kept.slot >= slot);
        let open = from.find(|kept| kept.slot == slot).map(Slot::spent);
        open.or_else(|| self.place_of(slot).ok().map(|place| self.closed[place].spent)).unwrap_or_default()
    }

    /// Where a closed slot stands, or would. Nearly always behind all others.
    fn place_of(&self, slot: u64) -> Result<usize, usize> {
        match self.closed.last() {
            Some(last) if last.slot >= slot => self.closed.binary_search_by_key(&slot, |closed| closed.slot),
            _ => Err(self.closed.len()),
        }
    }

    /// The largest bound of a slot that is open and at most two away.
    pub fn bound_about(&self, slot: u64) -> u64 {
        let near = self.open.iter().rev().skip_while(|kept| kept.slot > slot + 2);
        let near = near.take_while(|kept| kept.slot + 2 >= slot);
        near.map(|kept| kept.bound).max().unwrap_or_default()
    }

    /// Those that are open, in order.
    pub fn kept(&self) -> impl Iterator<Item = &Slot> {
        self.open.iter()
    }
}

/// Figures over closed slots.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Slots that were asked.
    pub slots: u64,
    /// Slots that began and ended within the scenario: the shares are taken from these.
    pub whole_slots: u64,
    /// Largest quota.
    pub quota: u64,
    /// Largest bound.
    pub bound: u64,
    /// The most that was admitted.
    pub most_admitted: u64,
    /// Units above the quota, in parts per million of it, in the worst slot.
    pub over_most_ppm: u64,
    /// Units refused that the quota had room for, in parts per million of it, in the worst slot.
    pub false_rejects_most_ppm: u64,
    over_ppm: u64,
    false_rejects_ppm: u64,
}

impl Sums {
    /// Adds a closed slot, `whole` if nothing of it lies outside the scenario: a part of a slot has a part of the demand
    /// that regions went by.
    pub fn add(&mut self, slot: &Slot, whole: bool) {
        self.slots += 1;
        self.quota = self.quota.max(slot.quota);
        self.bound = self.bound.max(slot.bound);
        self.most_admitted = self.most_admitted.max(slot.admitted);
        let share = |units: u64| units.saturating_mul(1_000_000) / slot.quota.max(1);
        let over = share(slot.admitted.saturating_sub(slot.quota));
        self.over_most_ppm = self.over_most_ppm.max(over);
        if whole {
            let refused = share(slot.demand.min(slot.quota).saturating_sub(slot.admitted));
            self.whole_slots += 1;
            self.over_ppm += over;
            self.false_rejects_ppm += refused;
            self.false_rejects_most_ppm = self.false_rejects_most_ppm.max(refused);
        }
    }

    /// Units above the quota, mean over slots, in parts per million of it.
    pub fn over_mean_ppm(&self) -> u64 {
        self.over_ppm.checked_div(self.whole_slots).unwrap_or_default()
    }

    /// Units refused that the quota had room for, mean over slots, in parts per million of it.
    pub fn false_rejects_ppm(&self) -> u64 {
        self.false_rejects_ppm.checked_div(self.whole_slots).unwrap_or_default()
    }
}

/// An exact token bucket beside that of the code under test.
#[derive(Debug)]
pub struct Tank {
    /// Billionths of a unit.
    level: i128,
    filled_at: Timestamp,
    /// What it held when it was asked last.
    held: Bucket,
    /// By how much the civil time of each region was ahead of true time, by place.
    ahead: BTreeMap<usize, Ahead>,
}

/// How far a civil time is ahead, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    seen_ms: i64,
    /// Up to where it is counted that time gained.
    counted_ms: i64,
}

/// One unit.
const UNIT: i128 = 1_000_000_000;

impl Tank {
    /// A full one, before anything was taken.
    pub fn full(held: Bucket) -> Self {
        let level = i128::from(held.burst) * UNIT;
        Self { level, filled_at: Timestamp::ZERO, held, ahead: BTreeMap::new() }
    }

    /// Puts `cost` back; what then is above the burst runs over when something is taken next.
    pub fn give_back(&mut self, cost: u64) {
        self.level = self.level.saturating_add(i128::from(cost) * UNIT);
    }

    /// The civil time of the region at `place` is so far ahead: what drips in by a clock that gains comes early, to `part` of
    /// the bucket, and only so much finds room as that holds.
    pub fn take_clock(&mut self, place: usize, ahead_ms: i64, part: impl FnOnce() -> Bucket) {
        let ahead = self.ahead.entry(place).or_insert(Ahead { seen_ms: ahead_ms, counted_ms: ahead_ms });
        // It goes on to gain until it is looked at again.
        let most_ms = ahead_ms + TOLERANCE_MS;
        if ahead_ms > ahead.seen_ms {
            let (part, gained) = (part(), i128::from(most_ms - ahead.counted_ms) * 1_000_000);
            let room = i128::from(part.burst).saturating_mul(UNIT);
            self.level = self.level.saturating_add(dripped(part, gained).min(room));
            ahead.counted_ms = most_ms;
        }
        *ahead = Ahead { seen_ms: ahead_ms, counted_ms: ahead.counted_ms.min(most_ms) };
    }

    /// Takes `cost` of what drips in as `held` says; `false` when it is not there, less one unit for rounding. Where the
    /// bucket grows, so does what is in it.
    pub fn take(&mut self, cost: u64, held: Bucket, now: Timestamp) -> bool {
        let passed = i128::try_from(now.since(self.filled_at).as_nanos()).unwrap_or(i128::MAX);
        let grown = held.burst.saturating_sub(self.held.burst);
        let level = self.level.saturating_add(i128::from(grown) * UNIT).saturating_add(dripped(held, passed));
        let left = level.min(i128::from(held.burst) * UNIT) - i128::from(cost) * UNIT;
        (self.filled_at, self.held) = (now, held);
        // What was not there is not owed: one excess is told once.
        self.level = left.max(-UNIT);
        left >= -UNIT
    }
}

/// What drips into a bucket in so many nanoseconds, in billionths of a unit.
fn dripped(held: Bucket, nanos: i128) -> i128 {
    let per = i128::try_from(held.rate.per.as_nanos().max(1)).unwrap_or(i128::MAX);
    nanos.saturating_mul(i128::from(held.rate.count)).saturating_mul(UNIT) / per
}

#[cfg(test)]
mod tests {
    use portolan_model::Rate;
    use tokio::time::Duration;

    use super::*;

    #[test]
    fn a_slot_that_is_returned_to_is_the_same_one() {
        let mut slots = Slots::new(true);
        let mut closed = Vec::new();
        for slot in (0..200).chain([150, 199, 80]) {
            slots.at(slot, 0, 0, |slot| closed.push(slot.slot)).admitted += 1;
        }
        assert_eq!(closed, (0..72).collect::<Vec<u64>>());
        let twice: Vec<u64> = slots.kept().filter(|slot| slot.admitted == 2).map(|slot| slot.slot).collect();
        assert_eq!(twice, [80, 150, 199]);
    }

    #[test]
    fn what_was_admitted_in_a_slot_that_is_closed_is_admitted_when_a_clock_returns_to_it() {
        let mut slots = Slots::new(false);
        let mut closed = Vec::new();
        for slot in (0..200).chain([5]).chain(200..400) {
            let at = slots.at(slot, 0, 0, |slot| closed.push((slot.slot, slot.admitted)));
            at.admitted += 90;
            at.bound = 90;
            assert_eq!(at.spent() > at.bound, slot == 5 && at.counted, "slot {slot}");
        }
        assert_eq!((slots.spent(4), slots.spent(5), slots.spent(400)), (90, 180, 0));
        // Figures have it once.
        assert_eq!(closed.iter().filter(|(slot, _)| *slot == 5).collect::<Vec<_>>(), [&(5, 90)]);
    }

    #[test]
    fn what_is_refused_wrongly_is_what_the_quota_had_room_for() {
        let check = |demand, admitted, over, refused| {
            let mut sums = Sums::default();
            sums.add(&Slot { demand, admitted, quota: 100, ..Slot::default() }, true);
            assert_eq!((sums.over_mean_ppm(), sums.false_rejects_ppm()), (over, refused), "{demand} {admitted}");
        };
        check(150, 100, 0, 0);
        check(150, 97, 0, 30_000);
        check(80, 80, 0, 0);
        check(80, 60, 0, 200_000);
        check(150, 110, 100_000, 0);
    }

    #[test]
    fn a_slot_that_the_scenario_begins_or_ends_in_is_not_whole() {
        let whole = |begins_ms| Slot { begins_ms, ..Slot::default() }.lies_within(12_000, 1000);
        assert_eq!([-1, 0, 11_000, 11_001].map(whole), [false, true, true, false]);
    }

    #[test]
    fn a_tank_gives_its_burst_and_then_what_drips_in() {
        let held = Bucket { rate: Rate { count: 10, per: Duration::from_secs(1) }, burst: 5 };
        let mut tank = Tank::full(held);
        let at = |millis: u64| Timestamp::from_nanos(millis * 1_000_000);
        let taken = |tank: &mut Tank, millis| (0..20).take_while(|_| tank.take(1, held, at(millis))).count();
        // One more than the burst passes as rounding.
        assert_eq!(taken(&mut tank, 0), 6);
        assert_eq!(taken(&mut tank, 1000), 6);
        assert_eq!(taken(&mut tank, 1100), 1);
        assert_eq!(taken(&mut tank, 1300), 2);
    }

    #[test]
    fn a_tank_that_grows_has_more_in_it() {
        let bucket = |burst| Bucket { rate: Rate { count: 1, per: Duration::from_secs(1) }, burst };
        let mut tank = Tank::full(bucket(5));
        assert!(tank.take(5, bucket(5), Timestamp::ZERO));
        assert!(tank.take(10, bucket(15), Timestamp::ZERO));
        assert!(!tank.take(2, bucket(15), Timestamp::ZERO));
    }

    #[test]
    fn a_clock_that_gains_lets_drip_early_what_finds_room() {
        let held = Bucket { rate: Rate { count: 10, per: Duration::from_secs(1) }, burst: 8 };
        let third = Bucket { rate: Rate { count: 4, ..held.rate }, burst: 3 };
        let check = |part: Bucket, ahead_ms: &[i64], fits: u64| {
            let mut tank = Tank::full(held);
            tank.take_clock(0, 3, || part);
            assert!(tank.take(8, held, Timestamp::ZERO));
            ahead_ms.iter().for_each(|ahead_ms| tank.take_clock(0, *ahead_ms, || part));
            let taken = (0..20).take_while(|_| tank.take(1, held, Timestamp::ZERO)).count();
            // One more passes as rounding.
            assert_eq!(taken as u64, fits + 1, "{ahead_ms:?}");
        };
        check(held, &[3, 3], 0);
        check(held, &[503, 503], 5);
        check(held, &[503, 0], 5);
        check(held, &[9003, 9003], 8);
        // A region gains by its part.
        check(third, &[503, 503], 2);
        check(third, &[9003, 9003], 3);
        // One that drifts gains as much as one that is set forward at once; what it gains again is more.
        check(held, &(3..=503).collect::<Vec<i64>>(), 5);
        check(held, &[503, 203, 503], 8);
    }
}
