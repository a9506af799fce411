//! The packed words of a counter. A `Word` holds slot, reuse number, seal and amount in 64 bits, so that starting a slot,
//! spending, lending and giving back are each one compare-and-swap, and none of them can touch another slot's count.
//!
//! A counter has one word per parity of the slot, so two slots that follow each other never share one; a word therefore
//! stores half its slot's number. What a region may spend stands beside the word: rights are only ever raised within a
//! slot, so reading them late is safe, and what is taken from them is added to the amount by the same compare-and-swap.

/// Largest amount a word can hold, 1.4e11 per key, slot and region. Larger quotas are cut to it.
pub(crate) const MAX_AMOUNT: u64 = AMOUNT_MASK - 1;

/// Half the slot (22 bits, wrapping), seal (1 bit), amount (37 bits), reuse number (4 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// How a word's slot stands to another of the same parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// The word counts this slot.
    Same,
    /// The word counts a slot that many before.
    Past(u64),
    /// The word counts a later slot.
    Ahead,
}

impl Word {
    /// An unsealed word.
    #[inline]
    pub const fn new(slot: u64, reuse: u8, amount: u64) -> Self {
        let amount = if amount > MAX_AMOUNT { MAX_AMOUNT } else { amount };
        Self((((slot >> 1) & HALF_MASK) << SLOT_SHIFT) | amount << AMOUNT_SHIFT | (reuse as u64 & REUSE_MASK))
    }

    /// The word as stored.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads a stored word.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What was spent or taken in the word's slot.
    #[inline]
    pub const fn amount(self) -> u64 {
        (self.0 >> AMOUNT_SHIFT) & AMOUNT_MASK
    }

    /// How often the entry was given to another key, modulo 16.
    #[inline]
    pub const fn reuse(self) -> u8 {
        (self.0 & REUSE_MASK) as u8
    }

    /// Whether the slot takes no more.
    #[inline]
    pub const fn is_sealed(self) -> bool {
        self.0 & SEAL != 0
    }

    /// The same count, to which nothing is added any more.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub const fn sealed(self) -> Self {
        Self(self.0 | SEAL)
    }

    /// The word that bars the path while an entry changes its key.
    pub const fn changing_key(self) -> Self {
        Self(self.settled().0 | BAR)
    }

    /// Whether the entry is changing its key.
    #[inline]
    pub const fn is_changing_key(self) -> bool {
        self.0 & BAR == BAR
    }

    /// The same count, of which what was charged before can not be given back any more.
    pub const fn settled(self) -> Self {
        let reuse = (self.0 + 1) & REUSE_MASK;
        Self((self.0 & !REUSE_MASK) | reuse)
    }

    /// The same slot with another amount.
    pub const fn with_amount(self, amount: u64) -> Self {
        Self((self.0 & !BAR) | amount << AMOUNT_SHIFT)
    }

    /// The same entry in another slot, unsealed.
    #[inline]
    pub const fn rolled(self, slot: u64, amount: u64) -> Self {
        let amount = if amount > MAX_AMOUNT { MAX_AMOUNT } else { amount };
        Self(((slot >> 1) << SLOT_SHIFT) | amount << AMOUNT_SHIFT | (self.0 & REUSE_MASK))
    }

    /// With so many units more, which fit.
    #[inline(always)]
    pub const fn plus(self, units: u32) -> Self {
        Self(self.0 + ((units as u64) << AMOUNT_SHIFT))
    }

    /// What is used of `slot`; more than any rights if the word counts another slot, takes no more, or bars the path.
    #[inline(always)]
    pub const fn open_amount(self, slot: u64) -> u64 {
        // What is of this slot and not sealed has nothing above the amount.
        (self.0 ^ ((slot >> 1) << SLOT_SHIFT)) >> AMOUNT_SHIFT
    }

    /// The word of `slot` that this one begins with its first unit, if it counts a slot before.
    #[inline(always)]
    pub const fn begun(self, slot: u64) -> Option<Self> {
        match self.age(slot) {
            Age::Past(_) if !self.is_changing_key() => Some(self.rolled(slot, 0)),
            _ => None,
        }
    }

    /// How the word's slot stands to `slot`; exact while they are less than 4 million slots apart.
    #[inline]
    pub const fn age(self, slot: u64) -> Age {
        let behind = (slot >> 1).wrapping_sub(self.0 >> SLOT_SHIFT) & HALF_MASK;
        match behind {
            // Never used: of no slot, and certainly not of a later one.
            _ if self.0 == 0 => Age::Past(HALF_MASK),
            0 => Age::Same,
            _ if behind <= HALF_MASK / 2 => Age::Past(behind * 2),
            _ => Age::Ahead,
        }
    }

    /// Whether the word reads as of a slot that nobody can have asked for while `latest` was the latest of all: then it is of
    /// one long over, from before the clock was set forward.
    pub const fn is_wrapped(self, latest: u64) -> bool {
        let ahead = (self.0 >> SLOT_SHIFT).wrapping_sub(latest >> 1) & HALF_MASK;
        matches!(self.age(latest), Age::Ahead) && ahead * 2 > FURTHEST_AHEAD
    }
}

/// An amount that was published for one slot: slot (25 bits, wrapping), tag (2 bits), amount (37 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Published(u64);

impl Published {
    #[inline]
    pub const fn new(slot: u64, tag: u64, amount: u64) -> Self {
        let amount = if amount > MAX_AMOUNT { MAX_AMOUNT } else { amount };
        // One more than the amount, so that 0 is of no slot.
        Self((slot << PUBLISHED_SHIFT) | ((tag & TAG_MASK) << TAG_SHIFT) | (amount + 1))
    }

    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether these bits were published for a slot after `slot`; exact while they are less than 16 million slots apart.
    pub const fn is_later(bits: u64, slot: u64) -> bool {
        let ahead = (bits >> PUBLISHED_SHIFT).wrapping_sub(slot) & (u64::MAX >> PUBLISHED_SHIFT);
        bits != 0 && ahead != 0 && ahead <= u64::MAX >> (PUBLISHED_SHIFT + 1)
    }

    /// The slot that these bits were published for, and the amount; exact while the slot is less than 16 million slots
    /// from `near`.
    pub const fn near(bits: u64, near: u64) -> Option<(u64, u64)> {
        if bits == 0 {
            return None;
        }
        let slots = u64::MAX >> PUBLISHED_SHIFT;
        let ahead = (bits >> PUBLISHED_SHIFT).wrapping_sub(near) & slots;
        let slot = if ahead <= slots / 2 { near.wrapping_add(ahead) } else { near.wrapping_sub(slots + 1 - ahead) };
        Some((slot, (bits & AMOUNT_MASK) - 1))
    }

    /// The tag and the amount, if these bits were published for `slot`.
    #[inline]
    pub const fn of(bits: u64, slot: u64) -> Option<(u64, u64)> {
        let same = bits != 0 && bits >> PUBLISHED_SHIFT == slot & (u64::MAX >> PUBLISHED_SHIFT);
        if same { Some(((bits >> TAG_SHIFT) & TAG_MASK, (bits & AMOUNT_MASK) - 1)) } else { None }
    }
}

const AMOUNT_BITS: u32 = 37;
const AMOUNT_MASK: u64 = (1 << AMOUNT_BITS) - 1;
const REUSE_MASK: u64 = 0xf;
const AMOUNT_SHIFT: u32 = 4;
/// The amount that bars the path.
const BAR: u64 = AMOUNT_MASK << AMOUNT_SHIFT;
const SEAL: u64 = 1 << (AMOUNT_SHIFT + AMOUNT_BITS);
const SLOT_SHIFT: u32 = AMOUNT_SHIFT + AMOUNT_BITS + 1;
const HALF_MASK: u64 = u64::MAX >> SLOT_SHIFT;
/// Slots to come that may be asked for, and far more: they begin within seconds.
const FURTHEST_AHEAD: u64 = 4096;
const TAG_SHIFT: u32 = AMOUNT_BITS;
const TAG_MASK: u64 = 0b11;
const PUBLISHED_SHIFT: u32 = TAG_SHIFT + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_slot_reuse_seal_and_amount_apart() {
        let slot = 1_795_000_000;
        let word = Word::new(slot, 15, 1 << 36);
        assert_eq!((word.amount(), word.reuse(), word.age(slot)), (1 << 36, 15, Age::Same));
        assert_eq!(word.with_amount(8).age(slot), Age::Same);
        assert_eq!((word.sealed().amount(), word.sealed().is_sealed(), word.is_sealed()), (1 << 36, true, false));
        assert!(!word.sealed().rolled(slot + 2, 1).is_sealed());
        assert_eq!(
            (word.settled().reuse(), word.settled().amount(), word.settled().age(slot)),
            (0, 1 << 36, Age::Same)
        );
        assert_eq!(word.changing_key().reuse(), 0);
        assert!(word.changing_key().is_changing_key() && !Word::new(slot, 0, u64::MAX).is_changing_key());
    }

    #[test]
    fn what_is_open_in_a_slot_is_its_amount_and_all_else_is_more_than_any_rights() {
        let slot = 1_795_000_000;
        let open = Word::new(slot, 15, 1 << 36);
        assert_eq!((open.open_amount(slot), open.plus(7).open_amount(slot)), (1 << 36, (1 << 36) + 7));
        assert_eq!((open.plus(7).reuse(), Word::new(slot, 3, MAX_AMOUNT).open_amount(slot)), (15, MAX_AMOUNT));
        let closed = [open.sealed(), open.changing_key(), open.sealed().changing_key()];
        let others = [slot - 2, slot + 2, slot + 4].map(|other| Word::new(other, 15, 5));
        let over = closed.into_iter().chain(others).chain(others.map(Word::sealed));
        over.chain(others.map(Word::changing_key)).for_each(|word| {
            assert!(word.open_amount(slot) > MAX_AMOUNT, "{word:?}");
        });
    }

    #[test]
    fn a_word_begins_later_slots_alone_and_never_while_its_entry_changes_its_key() {
        let slot = 1_795_000_000;
        let word = Word::new(slot, 15, 9);
        assert_eq!(word.begun(slot + 2), Some(Word::new(slot + 2, 15, 0)));
        assert_eq!(word.sealed().begun(slot + 2), Some(Word::new(slot + 2, 15, 0)));
        assert_eq!(Word::from_bits(0).begun(slot), Some(Word::new(slot, 0, 0)));
        let none = [word.begun(slot), word.begun(slot - 2), word.changing_key().begun(slot + 2)];
        assert_eq!(none, [None; 3]);
    }

    #[test]
    fn the_age_of_a_word_survives_the_wrap_of_its_slot() {
        let check = |word: u64, slot: u64, expected| assert_eq!(Word::new(word, 1, 0).age(slot), expected);
        check(5, 5, Age::Same);
        check(5, 7, Age::Past(2));
        check(7, 5, Age::Ahead);
        check((1 << 23) - 1, (1 << 23) + 1, Age::Past(2));
        check((1 << 23) - 2, 1 << 23, Age::Past(2));
        check(0, (1 << 23) - 2, Age::Ahead);
    }

    #[test]
    fn a_word_of_a_slot_that_cannot_have_been_asked_for_is_of_one_long_over() {
        let word = Word::new(1_795_000_000, 0, 5);
        let check = |later: i64, wrapped: bool| {
            let latest = 1_795_000_000u64.saturating_add_signed(later);
            assert_eq!(word.is_wrapped(latest), wrapped, "{later} slots later");
        };
        for later in [-4096, -2, -1, 0, 1, 100, 4_194_000] {
            check(later, false);
        }
        for later in [4_195_000, 5_000_000, 8_384_000] {
            check(later, true);
        }
        assert!([7, 5_000_000].iter().all(|latest| !Word::from_bits(0).is_wrapped(*latest)));
    }

    #[test]
    fn what_is_published_is_of_its_slot_alone() {
        let slot = 1_795_000_001;
        let published = Published::new(slot, 2, 1 << 36).bits();
        assert_eq!(Published::of(published, slot), Some((2, 1 << 36)));
        assert_eq!(Published::of(published, slot + 1), None);
        assert_eq!(Published::of(Published::new(0, 0, 0).bits(), 0), Some((0, 0)));
        assert_eq!(Published::of(0, 0), None);
        let later = [slot - 1, slot, slot + 1].map(|slot| Published::is_later(published, slot));
        assert_eq!((later, Published::is_later(0, slot)), ([true, false, false], false));
        let near = [slot - 3, slot, slot + 3].map(|near| Published::near(published, near));
        assert_eq!((near, Published::near(0, slot)), ([Some((slot, 1 << 36)); 3], None));
    }
}
