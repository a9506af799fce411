//! How fast a bucket fills while regions lend each other rate: a region that lends so many tokens a slot fills by so many
//! fewer, one that borrows them by so many more, each in its own bucket and never above its own share of the burst. So
//! nothing is under way between regions that anybody could spend at once, and whoever lends as little as one token at a
//! time can lend all of its rate (rights ledger, rule 9.8).
//!
//! A lender fills more slowly from the moment on that it lends until the slot is over by the slowest clock that is
//! tolerated; a borrower faster from when it hears of it, which is later, to the end of the slot by its own clock. So at
//! every instant all regions together fill by the rate at most, whatever is lost, late or cut off, and nobody has to
//! remember what it spent of a loan. Never decides what is lent or whether a request passes, and never reads a clock:
//! it is told the time.
//!
//! The state machine publishes a pace for each of two neighbouring slots in the words where windows have their rights. It
//! bars the level meanwhile, so that whoever charges reads a level and the paces that belong to it.
//!
//! What was lent is told with each loan. What a region lends next is its own choice, made here slot by slot: whatever it
//! hears of shares and burst meanwhile, in one slot an entry counts one thing.

use portolan_model::WallTime;

use crate::{
    bucket::{BucketTime, Level},
    counter::Counter,
    definition::Terms,
    horizon::CLOCK_TOLERANCE,
    sync::{AtomicU64, Ordering::SeqCst},
};

/// How fast a bucket fills in one slot, beside its share of the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Milliseconds into the slot from which on it holds; what was before is in the level.
    from_ms: u64,
    /// By how many parts of its share it fills faster, or slower.
    change: i64,
    /// Whether tokens are missing that others fill by. The state machine alone says when they do no more: by a civil clock
    /// that leaps that is not known.
    lends: bool,
}

impl Pace {
    /// Of a region whose share is `rate`.
    pub fn new(from_ms: u64, rate: Tokens, Moved { borrowed, lacking }: Moved) -> Self {
        let parts = |tokens: u64| (u128::from(tokens) * u128::from(rate.per_ms)) << PART_BITS;
        // Rate is lent between regions that all have a share of it.
        let whole = (u128::from(rate.count) * u128::from(rate.slot_ms)).max(1);
        let (up, down) = (parts(borrowed.saturating_sub(lacking)), parts(lacking.saturating_sub(borrowed)));
        // Slower rounds up and faster down: all regions together never gain by it.
        let part = |of: u128, most: u64| u64::try_from(of).unwrap_or(most).min(most) as i64;
        let change = part(up / whole, MOST_PARTS) - part(down.div_ceil(whole), WHOLE.unsigned_abs());
        Self { from_ms, change, lends: lacking > 0 }
    }

    /// Whether it is the same but for when it began.
    pub fn is_as(&self, other: &Self) -> bool {
        (self.change, self.lends) == (other.change, other.lends)
    }

    /// Whether more drips in than the share.
    pub const fn is_faster(&self) -> bool {
        self.change > 0
    }

    /// Whether it is that of a bucket that neither lends nor borrows.
    pub fn is_plain(&self) -> bool {
        self.change == 0 && !self.lends
    }

    /// As an amount that is published for a slot.
    pub fn bits(self) -> u64 {
        let (slower, parts) = (self.change < 0, self.change.unsigned_abs());
        parts << 12 | self.from_ms << 2 | u64::from(slower) << 1 | u64::from(self.lends)
    }

    /// What [`bits`](Self::bits) told.
    pub fn from_bits(bits: u64) -> Self {
        let parts = (bits >> 12 & MOST_PARTS) as i64;
        let change = if bits >> 1 & 1 == 1 { -parts.min(WHOLE) } else { parts };
        Self { from_ms: bits >> 2 & 0x3ff, change, lends: bits & 1 == 1 }
    }
}

/// What moved of the rate of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Tokens that others lent.
    pub borrowed: u64,
    /// Tokens that are missing here.
    pub lacking: u64,
}

/// A share of a rate: tokens in so many milliseconds, and the length of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub count: u64,
    pub per_ms: u64,
    pub slot_ms: u64,
}

impl Tokens {
    /// Whole tokens of a slot.
    pub fn of_slot(&self) -> u64 {
        let tokens = u128::from(self.count) * u128::from(self.slot_ms) / u128::from(self.per_ms.max(1));
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }
}

/// Of which slots of a bucket this node lends rate and counts what is admitted. Of the others it lends tokens and counts
/// what is used of those it borrowed: in the same word, so which of both it is may not change within a slot.
#[derive(Debug, Default)]
pub(crate) struct RateSlots(AtomicU64);

impl RateSlots {
    /// Whether rate is lent of a slot.
    pub fn contains(&self, slot: u64) -> bool {
        let bits = self.0.load(SeqCst);
        let kind = if slot < bits >> 2 { bits >> 1 } else { bits };
        kind & 1 == 1
    }

    /// Lends rate, or tokens, from the first slot on that nothing was published or lent of while `current` is the present
    /// one. What turns already goes first: ask again. Only by the state machine.
    pub fn turn(&self, current: u64, to_rate: bool) {
        let bits = self.0.load(SeqCst);
        if (bits & 1 == 1) != to_rate && bits >> 2 <= current {
            self.0.store((current + 2) << 2 | (bits & 1) << 1 | u64::from(to_rate), SeqCst);
        }
    }
}

/// The time that a bucket fills by. Read the level before.
pub(crate) fn bucket_time(terms: &Terms, counter: &Counter, wall: WallTime) -> BucketTime {
    let paces = counter.paces(terms.slot(wall));
    let mut time = BucketTime::civil(wall);
    for (at, (slot, pace)) in paces.iter().enumerate().filter_map(|(at, pace)| Some((at, (*pace)?))) {
        let (begin, end) = (terms.begin(slot), terms.end(slot));
        let passed = wall.min(end).since(begin).as_millis() as u64;
        time.shift(pace.change, passed.saturating_sub(pace.from_ms), PART_BITS);
        let followed = paces[1 - at].is_some_and(|(next, _)| next == slot + 1);
        if pace.lends && !followed {
            // Nobody said how fast it fills by now: not at all.
            time.shift(-WHOLE, wall.since(end).as_millis() as u64, PART_BITS);
        }
    }
    time
}

/// Whether everything is over that was lent and borrowed in published slots; of a bucket `on_loan` nothing that was lent.
pub(crate) fn is_over(terms: &Terms, counter: &Counter, on_loan: bool, wall: WallTime) -> bool {
    let over = |(slot, pace): &(u64, Pace)| {
        let end = terms.end(*slot);
        if pace.lends { !on_loan && wall >= end + CLOCK_TOLERANCE } else { wall >= end }
    };
    counter.paces(terms.slot(wall)).iter().flatten().all(over)
}

/// Publishes the paces of a slot and the next from `wall` on, in place of those there are. `to_level` makes the level by
/// civil time of the one that was found. Only by the state machine, under the partition's lock.
pub(crate) fn publish(counter: &Counter, slot: u64, paces: [Option<Pace>; 2], to_level: impl FnOnce(Level) -> Level) {
    let Some(seen) = counter.bar_level() else { return };
    let level = to_level(seen);
    counter.publish_paces(slot, paces);
    counter.settle_level(level);
}

/// Parts of a share.
const PART_BITS: u32 = 13;
const WHOLE: i64 = 1 << PART_BITS;
/// Fills 2047 times as fast at most.
const MOST_PARTS: u64 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::counter::Allowance;

    #[test]
    fn what_is_lent_turns_where_nothing_is_published_and_one_turn_after_the_other() {
        let lent = RateSlots::default();
        let of = |slots: std::ops::Range<u64>| slots.map(|slot| lent.contains(slot)).collect::<Vec<_>>();
        lent.turn(10, true);
        assert_eq!(of(10..14), [false, false, true, true]);
        lent.turn(11, false);
        assert_eq!(of(10..14), [false, false, true, true], "12 turns to rate first");
        lent.turn(12, false);
        assert_eq!(of(11..16), [true, true, true, false, false]);
        lent.turn(13, false);
        assert_eq!(of(11..16), [true, true, true, false, false]);
    }

    #[test]
    fn a_pace_that_is_not_in_the_level_yet_gives_way_to_nothing_that_was_borrowed() {
        let counter = Counter::default();
        let borrowed = Allowance { amount: 5, pending: None };
        let slower = Pace { from_ms: 0, change: -WHOLE, lends: true };
        assert!(counter.publish_borrowed(6, borrowed));
        counter.publish_paces(6, [None, None]);
        assert_eq!(counter.borrowed(6), 5, "no pace takes its place");
        counter.publish_paces(6, [Some(slower), None]);
        assert_eq!((counter.borrowed(6), counter.publish_borrowed(6, borrowed)), (0, false));
        assert!(!counter.publish_borrowed(8, borrowed) && counter.publish_borrowed(7, borrowed));
        counter.publish_paces(8, [None, None]);
        assert!(counter.publish_borrowed(8, borrowed));
    }

    /// Tokens that drip into the bucket of a share in `ms` of a slot, in parts of one, times the slot and the period.
    fn dripped(rate: Tokens, pace: Pace, ms: u64) -> u128 {
        let parts = (i128::from(WHOLE) + i128::from(pace.change)) as u128;
        u128::from(rate.count) * parts * u128::from(ms) * u128::from(rate.slot_ms)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn what_one_region_lends_and_another_borrows_adds_up_to_no_more_than_both_shares(
            shares in prop::array::uniform2(1..1_000_000u64),
            per_ms in 1..100_000u64,
            part in 0..=1000u64,
            ms in 1..=1000u64,
        ) {
            let [lender, borrower] = shares.map(|count| Tokens { count, per_ms, slot_ms: 1000 });
            let lent = lender.of_slot() * part / 1000;
            let slower = Pace::new(0, lender, Moved { borrowed: 0, lacking: lent });
            let faster = Pace::new(0, borrower, Moved { borrowed: lent, lacking: 0 });
            let both = dripped(lender, slower, ms) + dripped(borrower, faster, ms);
            let plain = Pace::new(0, lender, Moved { borrowed: 0, lacking: 0 });
            prop_assert!(both <= dripped(lender, plain, ms) + dripped(borrower, plain, ms));
            for pace in [slower, faster, plain] {
                prop_assert_eq!(Pace::from_bits(pace.bits()), pace);
                prop_assert!(pace.bits() < 1 << 36);
            }
        }
    }
}
