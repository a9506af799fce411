//! What a limit means in one generation: its quota, slots, algorithm and this region's share. Pure functions of the
//! definition, never of the moment, so that all regions cut the same quota alike (rights ledger, rule 9.2).

use std::{sync::Arc, time::Duration};

use portolan_config::{Algorithm, LimitId, OnPartition, SharePlan, Window};
use portolan_model::{Name, Ratio, WallTime};
use smallvec::SmallVec;

use crate::{
    bucket::{Bucket, BucketTime, to_fractions},
    calendar::{Calendar, Calendars},
    counter::Counter,
    drip::held,
    horizon::CLOCK_TOLERANCE,
    pace::Tokens,
    shares::base_shares,
    word::MAX_AMOUNT,
};

/// A limit as the accepted configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Its number; changes with the window or the key, and is never given to another limit.
    pub id: LimitId,
    /// Grows with every change of the count; spend carries over.
    pub generation: u32,
    /// Its name, for clients and people.
    pub name: Name,
    /// How much over all regions together, and how it is counted.
    pub algorithm: Algorithm,
    /// What to do while a region is not heard.
    pub on_partition: OnPartition,
    /// How the quota is split between regions, and what follows that split.
    pub shares: SharePlan,
    /// Units that one request costs at most.
    pub most_cost: u32,
    /// How far a region may go beyond its rights while the merged view is below the limit.
    pub overdraft: Ratio,
    /// How long a request may wait for another region's loan; zero: refused at once.
    pub borrow_wait: Duration,
    /// Whether a lender outside the regions holds four fifths of the quota.
    pub lent: bool,
    /// Whether refusals are only counted.
    pub shadow: bool,
    /// Whether the answer names the slot that was charged.
    pub expose_slot: bool,
}

impl Definition {
    /// A strict limit in its first generation, split equally.
    pub fn new(id: LimitId, name: Name, algorithm: Algorithm) -> Self {
        Self {
            id,
            generation: 1,
            name,
            algorithm,
            on_partition: OnPartition::Static,
            shares: SharePlan::default(),
            most_cost: 1,
            overdraft: Ratio::default(),
            borrow_wait: Duration::ZERO,
            lent: false,
            shadow: false,
            expose_slot: false,
        }
    }

    /// A strict fixed window.
    #[cfg(test)]
    pub fn of_rate(id: u32, rate: &str) -> Self {
        let rate: portolan_model::Rate = rate.parse().expect("a rate");
        let algorithm = Algorithm::FixedWindow { quota: rate.count, window: Window::Length(rate.per) };
        Self::new(LimitId(id), Name::new("per-user").expect("a name"), algorithm)
    }
}

/// Windows this long have durable marks per key; shorter ones only lose their rights in the slots a crash may have
/// touched, which costs at most the lead of the horizon plus one window.
pub(crate) const MARKED_WINDOW: Duration = Duration::from_secs(10);

/// Whether regions lend each other units of such a limit. Of sliding windows with durable marks they do not: a loan of the
/// window to come would have to be durable before that can be spent. Nor rights of concurrency: they have no slot that a
/// lost loan ends with.
pub(crate) fn can_be_lent(algorithm: &Algorithm) -> bool {
    match algorithm {
        Algorithm::FixedWindow { .. } | Algorithm::TokenBucket { .. } => true,
        Algorithm::SlidingWindow { window, .. } => *window < MARKED_WINDOW,
        Algorithm::Concurrency { .. } => false,
    }
}

/// Length of the slots in which tokens of a bucket are lent and granted.
const CHUNK_MS: u64 = 1000;

/// Part of a quota that the regions keep while a lender outside holds the rest.
pub(crate) const KEPT_OF_LENT: Ratio = Ratio::from_parts(2000);

/// The part of a definition that the request path computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// `L`: the whole quota of one slot.
    pub quota: u64,
    /// Most units that can ever be there at once, over all regions: the burst of a bucket, else the quota.
    pub burst: u64,
    /// How it is counted where the key is owned; other nodes of the region count what they are granted by slots.
    pub kind: Kind,
    /// The slots that it is counted in.
    pub slots: Slots,
    /// Nominal length of a slot, for clients.
    pub window: Duration,
    /// What a key may spend in a slot without a durable mark.
    pub allowance: u64,
    /// What one may have spent so before a restart: by the larger share, while one follows another.
    pub presumed: u64,
    /// How far beyond the spend a durable mark is set, by an owner that has the slot from its beginning; and by one that
    /// spent little of it, at least.
    pub chunk: u64,
    pub step: u64,
    /// Units that one request costs at most.
    pub most_cost: u64,
    marked: bool,
    /// Whether regions should lend rate of it, and not tokens.
    prefers_rate: bool,
    share: Share,
}

/// How a limit is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each slot from nothing.
    Fixed,
    /// With what is left of the slot before.
    Sliding,
    /// By a bucket; slots are for tokens that were borrowed.
    Bucket(Buckets),
    /// What is in flight, in one slot without end.
    Concurrency,
}

/// This region's bucket, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buckets {
    before: Bucket,
    /// From the turn of the share on.
    after: Bucket,
    /// While the limit is open.
    opened: Bucket,
}

/// How time is cut into slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Slots {
    /// Equal ones.
    Even(Even),
    /// Civil days or months.
    Civil(Arc<Calendar>),
    /// One, from the beginning of time.
    Endless,
}

/// Slots of equal length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Even {
    /// In milliseconds, at least 1.
    length: u64,
    /// 2^64 over that: a division takes some processors as long as all else that a decision computes.
    reciprocal: u64,
}

/// This region's share of the quota, by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub before: u64,
    /// The first slot of `after`.
    pub turn: u64,
    pub after: u64,
}

impl Terms {
    /// The terms for the region at `position` of `regions` regions in the order of the scope.
    pub fn new(definition: &Definition, position: usize, regions: usize, calendars: &mut Calendars) -> Self {
        let quota = definition.algorithm.quota().min(MAX_AMOUNT);
        let window = definition.algorithm.window();
        let slots = Slots::new(&definition.algorithm, calendars);
        let split = if definition.lent { KEPT_OF_LENT.of(quota) } else { quota };
        let of = |of: u64, weights: &[u32]| base_shares(of, weights, regions).get(position).copied().unwrap_or(0);
        let share = Share::new(&definition.shares, |weights| of(split, weights), &slots);
        let kind = match &definition.algorithm {
            Algorithm::FixedWindow { .. } => Kind::Fixed,
            Algorithm::SlidingWindow { .. } => Kind::Sliding,
            Algorithm::Concurrency { .. } => Kind::Concurrency,
            Algorithm::TokenBucket { rate, burst } => {
                let split = if definition.lent { KEPT_OF_LENT.of(*burst) } else { *burst };
                let bursts = Share::new(&definition.shares, |weights| of(split, weights), &slots);
                let bucket = |count, burst| Bucket::new(count, rate.per, burst);
                let opened = |whole: u64, part: u64| open_share(definition.on_partition, whole, part);
                Kind::Bucket(Buckets {
                    before: bucket(share.before, bursts.before),
                    after: bucket(share.after, bursts.after),
                    opened: bucket(opened(quota, share.before), opened(*burst, bursts.before)),
                })
            }
        };
        let least = share.before.min(share.after);
        let second = least.saturating_mul(1000) / millis(window);
        let allowance = (least / 10).max(1);
        Self {
            quota,
            burst: if let Algorithm::TokenBucket { burst, .. } = &definition.algorithm { *burst } else { quota },
            kind,
            slots,
            window,
            allowance,
            presumed: (share.before.max(share.after) / 10).max(1),
            chunk: allowance.max(second),
            step: (least / 1000).max(second).max(1),
            most_cost: definition.most_cost.into(),
            prefers_rate: prefers_rate(&definition.algorithm, &weights_of(&definition.shares), regions),
            marked: window >= MARKED_WINDOW && matches!(kind, Kind::Fixed | Kind::Sliding) && !definition.shadow,
            share,
        }
    }

    /// A fixed window for the first of some regions.
    #[cfg(test)]
    pub fn of_rate(rate: &str, regions: usize) -> Self {
        Self::new(&Definition::of_rate(1, rate), 0, regions, &mut Calendars::default())
    }

    /// This region's share of a slot: the same in every process of the region that knows this definition.
    #[inline]
    pub fn base(&self, slot: u64) -> u64 {
        self.share.of(slot)
    }

    /// This region's share, by slot.
    pub const fn share(&self) -> Share {
        self.share
    }

    /// What all regions together may consume of one key in a slot.
    pub fn most_in_slot(&self) -> u64 {
        match self.kind {
            Kind::Bucket(_) => self.burst.saturating_add(self.per_slot().ceil() as u64),
            Kind::Fixed | Kind::Sliding | Kind::Concurrency => self.quota,
        }
    }

    /// Units that a bucket's rate comes to in one of its slots; of others, the quota.
    pub fn per_slot(&self) -> f64 {
        match self.kind {
            Kind::Bucket(_) => self.quota as f64 * CHUNK_MS as f64 / millis(self.window) as f64,
            Kind::Fixed | Kind::Sliding | Kind::Concurrency => self.quota as f64,
        }
    }

    /// Whether regions should lend rate of a bucket, and not tokens. Of which slots they do is [`RateSlots`]'s to say.
    ///
    /// [`RateSlots`]: crate::pace::RateSlots
    pub const fn prefers_rate(&self) -> bool {
        self.prefers_rate
    }

    /// So much of the quota as a rate.
    pub fn tokens(&self, count: u64) -> Tokens {
        Tokens { count, per_ms: millis(self.window), slot_ms: CHUNK_MS }
    }

    /// This region's bucket.
    pub fn bucket(&self, buckets: &Buckets, slot: u64, opened: bool) -> Bucket {
        match slot {
            _ if opened => buckets.opened,
            _ if slot < self.share.turn => buckets.before,
            _ => buckets.after,
        }
    }

    /// What is missing from every bucket at least, since this region's share has risen: it starts empty with the turn, for
    /// other regions may have spent a moment before what it gained, and fills by its rate once all clocks have turned.
    pub fn unfilled(&self, buckets: &Buckets, slot: u64, at: BucketTime) -> u64 {
        let Buckets { before, after, .. } = buckets;
        if slot < self.share.turn || !after.rises_from(before) {
            return 0;
        }
        let since = to_fractions(at.wall.since(self.begin(self.share.turn) + CLOCK_TOLERANCE));
        after.burst().saturating_sub(since.saturating_sub(at.behind()))
    }

    /// Whether keys of this limit keep durable marks. Those of a shadow do not: it refuses nothing.
    pub fn marked(&self) -> bool {
        self.marked
    }

    /// The slot that `wall` falls into.
    #[inline]
    pub fn slot(&self, wall: WallTime) -> u64 {
        self.slots.slot(wall)
    }

    /// First instant of a slot.
    #[inline]
    pub fn begin(&self, slot: u64) -> WallTime {
        self.slots.begin(slot)
    }

    /// First instant after a slot.
    #[inline]
    pub fn end(&self, slot: u64) -> WallTime {
        self.begin(slot.saturating_add(1))
    }

    /// From when on it does not matter what was used of a slot: a sliding window carries it over to the next.
    pub fn forgotten(&self, slot: u64) -> WallTime {
        self.end(if self.kind == Kind::Sliding { slot.saturating_add(1) } else { slot })
    }

    /// Seconds of a slot.
    pub fn length(&self, slot: u64) -> f64 {
        self.end(slot).since(self.begin(slot)).as_secs_f64()
    }

    /// From `wall` to the end of a slot; nominal for one without end.
    #[inline]
    pub fn left(&self, slot: u64, wall: WallTime) -> Duration {
        if self.slots == Slots::Endless { self.window } else { self.end(slot).since(wall) }
    }

    /// Length of a slot as clients are told it; nominal for what is not counted in slots.
    pub fn span(&self, slot: u64) -> Duration {
        match self.slots {
            Slots::Civil(_) => self.end(slot).since(self.begin(slot)),
            Slots::Even(_) | Slots::Endless => self.window,
        }
    }

    /// Whether a counter counts nothing that matters at `wall` or later.
    pub fn is_over(&self, counter: &Counter, wall: WallTime) -> bool {
        match self.kind {
            Kind::Fixed | Kind::Sliding => counter.is_over(self.slot(wall)),
            Kind::Bucket(buckets) => {
                let paced = || counter.paces(self.slot(wall)).iter().any(Option::is_some);
                let at = BucketTime::civil(wall);
                let held = || held(self, counter, &self.bucket(&buckets, self.slot(wall), false), at);
                counter.is_over(self.slot(wall)) && counter.level().debt(at) == 0 && held() == 0 && !paced()
            }
            // What another node's process allotted goes back to it first.
            Kind::Concurrency => counter.used(0) == 0 && counter.rights(0).is_none_or(|rights| rights.amount == 0),
        }
    }
}

impl Slots {
    pub fn new(algorithm: &Algorithm, calendars: &mut Calendars) -> Self {
        match algorithm {
            Algorithm::FixedWindow { window: Window::Calendar { period, zone }, .. } => {
                Self::Civil(calendars.of(*period, zone))
            }
            Algorithm::Concurrency { .. } => Self::Endless,
            // What another region lends is for a second at most, so that an idle one does not sit on it.
            Algorithm::TokenBucket { .. } => Self::Even(Even::new(CHUNK_MS)),
            other => Self::Even(Even::new(millis(other.window()))),
        }
    }

    #[inline]
    pub fn slot(&self, wall: WallTime) -> u64 {
        match self {
            Self::Even(even) => even.slot(wall.as_unix_millis()),
            Self::Civil(calendar) => calendar.slot(wall.as_unix_millis()),
            Self::Endless => 0,
        }
    }

    #[inline]
    pub fn begin(&self, slot: u64) -> WallTime {
        WallTime::from_unix_millis(match self {
            Self::Even(even) => slot.saturating_mul(even.length),
            Self::Civil(calendar) => calendar.begin(slot),
            Self::Endless => {
                if slot == 0 {
                    0
                } else {
                    u64::MAX
                }
            }
        })
    }

    /// The first slot that does not begin before `wall`.
    pub fn beginning_from(&self, wall: WallTime) -> u64 {
        if *self == Self::Endless {
            // What was in flight ended with the process, so nothing of the only slot is lost.
            return 0;
        }
        let slot = self.slot(wall);
        slot + u64::from(self.begin(slot) < wall)
    }
}

impl Even {
    /// One slot from the beginning of time.
    pub const ENDLESS: Self = Self { length: u64::MAX, reciprocal: 0 };

    const fn new(length: u64) -> Self {
        Self { length, reciprocal: u64::MAX / length }
    }

    #[inline]
    pub const fn begin(self, slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot.wrapping_mul(self.length))
    }

    /// Whether an instant is of the slot that begins at `begin`.
    #[inline]
    pub const fn is_within(self, begin: WallTime, wall: WallTime) -> bool {
        wall.as_unix_millis().wrapping_sub(begin.as_unix_millis()) < self.length
    }

    #[inline]
    pub const fn slot(self, unix_ms: u64) -> u64 {
        // Rounding down twice makes it one too small at most.
        let guess = ((unix_ms as u128 * self.reciprocal as u128) >> 64) as u64;
        guess + (unix_ms - guess * self.length >= self.length) as u64
    }
}

impl Share {
    #[inline]
    pub const fn of(&self, slot: u64) -> u64 {
        if slot < self.turn { self.before } else { self.after }
    }

    /// `of` is this region's share under given weights. Of a change whose outcome is not known here, the smaller share
    /// holds in the slots that it may govern.
    fn new(plan: &SharePlan, of: impl Fn(&[u32]) -> u64, slots: &Slots) -> Self {
        let before = of(&plan.weights);
        let Some(change) = &plan.change else { return Self { before, turn: u64::MAX, after: before } };
        let after = of(&change.weights);
        if *slots == Slots::Endless {
            // The only slot cannot turn: the smaller share holds until the state machine publishes more.
            return Self { before: before.min(after), turn: u64::MAX, after: before.min(after) };
        }
        match change.from {
            Some(from) => Self { before, turn: slots.beginning_from(from), after },
            None => Self { before, turn: slots.beginning_from(change.earliest), after: before.min(after) },
        }
    }
}

/// What a region may admit while the limit is open, of the `whole` quota with its own `part`: of `open(1.5)`, the regions
/// of a side come to half as much again as the sum of their shares.
pub(crate) fn open_share(on_partition: OnPartition, whole: u64, part: u64) -> u64 {
    match on_partition {
        OnPartition::Open { cap: None } => whole,
        OnPartition::Open { cap: Some(cap) } => cap.of(part).min(whole).max(part),
        OnPartition::Static | OnPartition::Closed | OnPartition::ClosedMinority => part,
    }
}

/// Whether a bucket holds so little that what regions could lend of its tokens would not move its rate, while every region
/// that takes part has a bucket of its own for what it borrows to drip into.
pub(crate) fn prefers_rate(algorithm: &Algorithm, weights: &[&[u32]], regions: usize) -> bool {
    let Algorithm::TokenBucket { rate, burst } = algorithm else { return false };
    let takes_part = |weights: &[u32], at: usize| weights.get(at).is_none_or(|weight| *weight > 0);
    let least = |of: u64| {
        let shares = |weights: &&[u32]| {
            let weights = *weights;
            let shares = base_shares(of, weights, regions).into_iter().enumerate();
            shares.filter(|(at, _)| takes_part(weights, *at)).map(|(_, share)| share).min()
        };
        weights.iter().filter_map(shares).min().unwrap_or(0)
    };
    let of_slot = |count: u64| Tokens { count, per_ms: millis(rate.per), slot_ms: CHUNK_MS }.of_slot();
    let few = *burst < of_slot(rate.count).saturating_mul(FEW_SLOTS);
    few && least(*burst) > 0 && of_slot(least(rate.count)) >= LEAST_RATE
}

/// The split in force, and the one that follows it.
fn weights_of(SharePlan { weights, change }: &SharePlan) -> SmallVec<[&[u32]; 2]> {
    let after = change.as_ref().map(|change| &change.weights[..]);
    [&weights[..]].into_iter().chain(after).collect()
}

/// A burst of so many slots of the rate moves the rate by its tokens alone: those that are lent are missing for a slot and
/// the tolerance of clocks.
const FEW_SLOTS: u64 = 2;

/// Tokens a slot in the smallest share at least, so that whole tokens a slot tell parts of a rate.
const LEAST_RATE: u64 = 4;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use portolan_config::{Period, ShareChange};

    use super::*;

    fn definition(algorithm: Algorithm) -> Definition {
        Definition::new(LimitId(1), Name::new("per-user").expect("a name"), algorithm)
    }

    fn fixed(quota: u64, seconds: u64) -> Definition {
        let window = Window::Length(Duration::from_secs(seconds));
        definition(Algorithm::FixedWindow { quota, window })
    }

    fn terms(definition: &Definition, position: usize) -> Terms {
        Terms::new(definition, position, 3, &mut Calendars::default())
    }

    #[test]
    fn a_slot_begins_where_the_one_before_ends() {
        let terms = terms(&fixed(600, 60), 0);
        assert_eq!((terms.base(1), terms.allowance, terms.chunk), (200, 20, 20));
        let slot = terms.slot(WallTime::from_unix_millis(119_999));
        assert_eq!((slot, terms.begin(slot).as_unix_millis(), terms.end(slot).as_unix_millis()), (1, 60_000, 120_000));
    }

    #[test]
    fn the_slot_of_an_instant_is_its_quotient() {
        let lengths =
            (0..63).map(|bits| 1u64 << bits).flat_map(|power| [power, power + 1, power * 2 - 1, 1000 % power + 1]);
        for length in lengths {
            let instants = [1, 2, 999, 1_795_000_000_000, u64::MAX / 2, u64::MAX];
            for at in instants.into_iter().flat_map(|at| [at, at / length * length, (at / length * length).max(1) - 1])
            {
                assert_eq!(Even::new(length).slot(at), at / length, "{at} in slots of {length}");
            }
        }
    }

    #[test]
    fn a_lender_outside_leaves_the_regions_a_fifth() {
        let lent = Definition { lent: true, ..fixed(1000, 1) };
        assert_eq!([0, 1, 2].map(|at| terms(&lent, at).base(0)), [67, 67, 66]);
    }

    #[test]
    fn rule_4_a_key_that_was_not_marked_counts_a_tenth_of_the_larger_share_while_one_follows_another() {
        let change = Some(ShareChange { weights: vec![1, 1, 8], earliest: WallTime::default(), from: None });
        let shares = SharePlan { weights: vec![8, 1, 1], change };
        let changing = Definition { shares, ..fixed(1000, 60) };
        let of = |at| terms(&changing, at);
        assert_eq!([0, 1, 2].map(|at| (of(at).allowance, of(at).presumed)), [(10, 80), (10, 10), (10, 10)]);
    }

    #[test]
    fn rule_2_a_share_belongs_to_a_slot_and_is_the_smaller_one_while_the_outcome_is_unknown() {
        let with = |from: Option<u64>| {
            let change = ShareChange {
                weights: vec![1, 1, 2],
                from: from.map(WallTime::from_unix_millis),
                earliest: WallTime::from_unix_millis(62_500),
            };
            Definition { shares: SharePlan { weights: vec![2, 1, 1], change: Some(change) }, ..fixed(100, 1) }
        };
        let bases = |from, slot| [0, 1, 2].map(|at| terms(&with(from), at).base(slot));
        let (before, smaller, after) = ([50, 25, 25], [25, 25, 25], [25, 25, 50]);
        assert_eq!([61, 62, 63].map(|slot| bases(None, slot)), [before, before, smaller]);
        assert_eq!([69, 70, 71].map(|slot| bases(Some(69_001), slot)), [before, after, after]);
    }

    #[test]
    fn a_calendar_window_is_a_civil_period_of_its_zone() {
        let window = Window::Calendar { period: Period::Month, zone: "Europe/Berlin".into() };
        let terms = terms(&definition(Algorithm::FixedWindow { quota: 1 << 36, window }), 0);
        // 2026-10-31T23:00:00Z is midnight in Berlin.
        let november = terms.slot(WallTime::from_unix_millis(1_795_000_000_000));
        assert_eq!(terms.begin(november).to_string(), "2026-10-31T23:00:00.000Z");
        assert_eq!(terms.end(november).to_string(), "2026-11-30T23:00:00.000Z");
        assert!(terms.marked() && terms.base(november) == (1 << 36) / 3 + 1);
    }
}
