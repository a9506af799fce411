//! Token buckets by their theoretical arrival time (GCRA: ITU-T I.371): one word says when the bucket will be full again,
//! so nothing drips while nobody asks. A region has its share of the rate and of the burst; shares add up, so all regions
//! together admit at most `burst + rate * t` in any time `t`. Merging arrival times would not: a later one hides what was
//! spent at the same time elsewhere.
//!
//! Tokens that are taken out to be spent elsewhere, by another region or another node, come back with time like all others.
//! So that they are not there twice, a bucket never holds more than its burst less what is out; and when that is spent or
//! lapses, it fills from where it stood. With tokens in buckets and tokens out together never above all bursts, and rising
//! by the rate alone, whatever is lent to whomever admits at most `burst + rate * t`.
//!
//! Time is counted in 2^-24 ms, and what a token takes is rounded up: a bucket gives less, never more. The word wraps after
//! two years; one that stands still for half of that would be read as spent, so the sweep frees full ones.

use std::time::Duration;

use portolan_model::WallTime;

/// What a region's bucket holds, in fractions of a millisecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    /// Time in which one token comes back, at least 1.
    interval: u64,
    /// Time in which the whole burst does.
    burst: u64,
}

/// When a bucket will be full again, with the reuse number of its entry (4 bits); 0 for one that was never asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(u64);

impl Bucket {
    /// `count` tokens come back in `per`, up to `burst`.
    pub fn new(count: u64, per: Duration, burst: u64) -> Self {
        let per = per.as_millis() << FRACTION_BITS;
        let count = u128::from(count);
        // Without a share of the rate nothing comes back, and nothing is there.
        let interval = if count == 0 { u128::MAX } else { per.div_ceil(count) };
        // In whole intervals: else the last token of a burst would be a fraction of a millisecond short for ever.
        let whole = if count == 0 { 0 } else { interval.saturating_mul(u128::from(burst)) };
        let interval = u64::try_from(interval).unwrap_or(u64::MAX).clamp(1, NEVER);
        Self { interval, burst: u64::try_from(whole).unwrap_or(u64::MAX).min(LONGEST) }
    }

    /// What `tokens` take.
    pub fn time_of(&self, tokens: u64) -> u64 {
        self.interval.saturating_mul(tokens)
    }

    /// Time in which the whole bucket comes back.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// What is gone, in the time of this bucket, of one that was `before` this with `debt` missing: as many tokens. One
    /// that held none was empty.
    pub fn debt_from(&self, before: &Self, debt: u64) -> u64 {
        let missing = debt.div_ceil(before.interval);
        match (before.burst, self.burst) {
            // It fills from the moment at which it holds something (see `unfilled`).
            (_, 0) => 0,
            (0, _) => self.burst,
            _ => self.time_of(missing).min(LONGEST),
        }
    }

    /// Whether a bucket that holds the same part of its burst as one `before` can hold more tokens, or fills faster.
    pub fn rises_from(&self, before: &Self) -> bool {
        let tokens = |bucket: &Self| bucket.tokens(bucket.burst);
        tokens(self) > tokens(before) || self.burst > before.burst || self.interval < before.interval
    }

    /// Whole tokens in so much time.
    pub fn tokens(&self, time: u64) -> u64 {
        time / self.interval
    }
}

/// The time that a bucket fills by: civil time, ahead of it where a bucket fills faster than its share of the rate, behind
/// where it fills more slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BucketTime {
    pub wall: WallTime,
    /// Fractions ahead of civil time.
    shift: i64,
}

impl BucketTime {
    pub const fn civil(wall: WallTime) -> Self {
        Self { wall, shift: 0 }
    }

    /// The time after `ms` in which it ran faster by `change` of `1 << part_bits` parts.
    pub fn shift(&mut self, change: i64, ms: u64, part_bits: u32) {
        let ms = i64::try_from(ms).unwrap_or(i64::MAX);
        self.shift = self.shift.saturating_add(change.saturating_mul(ms) << (FRACTION_BITS - part_bits));
    }

    /// The same, but never ahead of civil time.
    pub fn not_ahead(self) -> Self {
        Self { shift: self.shift.min(0), ..self }
    }

    /// Fractions behind civil time, if any.
    pub fn behind(self) -> u64 {
        self.shift.min(0).unsigned_abs()
    }

    fn fractions(self) -> u64 {
        (self.wall.as_unix_millis() << FRACTION_BITS).wrapping_add_signed(self.shift) & TIME_MASK
    }
}

impl Level {
    /// Bars the path while an entry changes its key, or its bucket its pace.
    pub const CHANGING_KEY: Self = Self(u64::MAX);

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn bits(self) -> u64 {
        self.0
    }

    pub const fn was_asked(self) -> bool {
        self.0 != 0
    }

    pub const fn reuse(self) -> u8 {
        (self.0 >> TIME_BITS) as u8
    }

    /// The level at `now` of a bucket that needs `debt` to be full.
    pub fn new(reuse: u8, now: BucketTime, debt: u64) -> Self {
        let bits = (u64::from(reuse) << TIME_BITS) | (now.fractions().wrapping_add(debt) & TIME_MASK);
        Self(bits).sound()
    }

    /// Neither of the two values that mean something else; a fraction more is a token later.
    const fn sound(self) -> Self {
        match self.0 {
            0 => Self(1),
            u64::MAX => Self(u64::MAX - 1),
            _ => self,
        }
    }

    /// The same level of another entry.
    pub const fn with_reuse(self, reuse: u8) -> Self {
        if self.was_asked() { Self(((reuse as u64) << TIME_BITS) | (self.0 & TIME_MASK)) } else { self }
    }

    /// The same level, to which nothing that was charged before can be given back any more. The number that tells charges
    /// apart wraps with every 16th call: by then none of them may be given back any more.
    pub const fn settled(self) -> Self {
        let reuse = (self.reuse() as u64 + 1) & (u64::MAX >> TIME_BITS);
        Self((reuse << TIME_BITS) | (self.0 & TIME_MASK)).sound()
    }

    /// How long the bucket needs to be full at `now`.
    pub fn debt(self, now: BucketTime) -> u64 {
        let ahead = self.0.wrapping_sub(now.fractions()) & TIME_MASK;
        if ahead <= LONGEST { ahead } else { 0 }
    }

    /// The level when what took `time` was given back.
    pub fn given_back(self, time: u64) -> Self {
        let level = (self.0 & !TIME_MASK) | (self.0.wrapping_sub(time.min(LONGEST)) & TIME_MASK);
        Self(level).sound()
    }
}

/// So many fractions as time, rounded up.
pub(crate) fn to_duration(fractions: u64) -> Duration {
    Duration::from_millis(fractions.div_ceil(1 << FRACTION_BITS))
}

/// So much time in fractions, cut to what a level can hold.
pub(crate) fn to_fractions(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis() << FRACTION_BITS).unwrap_or(u64::MAX).min(LONGEST)
}

const FRACTION_BITS: u32 = 24;
const TIME_BITS: u32 = 60;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Longest time until a bucket is full, half of what the word can tell: 397 days.
const LONGEST: u64 = TIME_MASK / 2;
/// A token that does not come back.
const NEVER: u64 = LONGEST + 1;

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn at(ms: u64) -> BucketTime {
        BucketTime::civil(WallTime::from_unix_millis(ms))
    }

    #[test]
    fn a_bucket_without_a_share_owes_nothing_when_it_has_one_again() {
        let second = Duration::from_secs(1);
        let (some, none) = (Bucket::new(100, second, 20), Bucket::new(0, second, 20));
        let debt = none.debt_from(&some, some.time_of(7));
        assert_eq!(debt, 0);
        // What it gains is empty.
        assert_eq!(some.tokens(some.debt_from(&none, debt)), 20);
    }

    /// Asks for `cost` tokens.
    fn take(bucket: &Bucket, level: &mut Level, now: BucketTime, cost: u64) -> bool {
        let debt = level.debt(now) + bucket.time_of(cost);
        let fits = debt <= bucket.burst();
        if fits {
            *level = Level::new(3, now, debt);
        }
        fits
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let bucket = Bucket::new(10, Duration::from_secs(1), 5);
        let mut level = Level::from_bits(0);
        let mut taken = |ms: u64| (0..100).filter(|_| take(&bucket, &mut level, at(1_795_000_000_000 + ms), 1)).count();
        assert_eq!([0, 99, 100, 250, 10_000].map(&mut taken), [5, 0, 1, 1, 5]);
        assert_eq!(level.reuse(), 3);
    }

    #[test]
    fn a_region_without_a_share_of_the_rate_gives_nothing() {
        let bucket = Bucket::new(0, Duration::from_secs(1), 5);
        assert!(!take(&bucket, &mut Level::from_bits(0), at(1000), 1));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_never_more_than_the_burst() {
        let bucket = Bucket::new(1, Duration::from_secs(1), 2);
        let mut level = Level::from_bits(0);
        assert!(take(&bucket, &mut level, at(1000), 2) && !take(&bucket, &mut level, at(1000), 1));
        level = level.given_back(bucket.time_of(1));
        assert!(take(&bucket, &mut level, at(1000), 1) && !take(&bucket, &mut level, at(1000), 1));
        level = level.given_back(bucket.time_of(2)).given_back(bucket.time_of(2));
        assert!(take(&bucket, &mut level, at(1000), 2) && !take(&bucket, &mut level, at(1000), 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn in_any_interval_a_bucket_gives_at_most_its_burst_and_its_rate(
            count in 1..5000u64,
            per_ms in 1..100_000u64,
            burst in 1..50u64,
            asks in vec((0..200u64, 1..5u64), 1..60),
        ) {
            let bucket = Bucket::new(count, Duration::from_millis(per_ms), burst);
            let (mut level, mut now) = (Level::from_bits(0), 1_795_000_000_000);
            let mut given = Vec::new();
            for (gap, cost) in asks {
                now += gap;
                if take(&bucket, &mut level, at(now), cost) {
                    given.push((now, cost));
                }
            }
            for from in 0..given.len() {
                let mut sum = 0;
                for &(when, cost) in &given[from..] {
                    sum += cost;
                    // sum <= burst + count * t / per, without fractions.
                    prop_assert!((sum.saturating_sub(burst)) * per_ms <= count * (when - given[from].0));
                }
            }
        }
    }
}
