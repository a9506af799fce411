//! The packed word of a counter: slot, reuse number and spend in 64 bits, so that starting a slot, spending and giving
//! back are each one compare-and-swap, and none of them can touch another slot's count.
//!
//! A region's rights in a slot are a pure function of the limit's generation, so they stand beside the word and not in
//! it. Rights that move between regions keep this shape: what is lent is added to the spend by the same
//! compare-and-swap, and what is borrowed only raises the rights, which a late reader may miss without harm.

/// Largest spend a word can hold: 6.8e10 per key, slot and region. Larger quotas are cut to it.
pub(crate) const MAX_SPENT: u64 = SPENT_MASK - 1;

/// Slot (24 bits, wrapping), reuse number (4 bits), spend (36 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

/// How a word's slot stands to another.
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
    /// A word that counts nothing yet.
    pub const fn new(slot: u64, reuse: u64, spent: u64) -> Self {
        let spent = if spent > MAX_SPENT { MAX_SPENT } else { spent };
        Self(((slot & SLOT_MASK) << SLOT_SHIFT) | ((reuse & REUSE_MASK) << REUSE_SHIFT) | spent)
    }

    /// The word as stored.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Reads a stored word.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// What was spent in the word's slot.
    pub const fn spent(self) -> u64 {
        self.0 & SPENT_MASK
    }

    /// How often the entry was given to another key, modulo 16.
    pub const fn reuse(self) -> u64 {
        (self.0 >> REUSE_SHIFT) & REUSE_MASK
    }

    /// The word that bars the path while an entry changes its key.
    pub const fn changing_key(self) -> Self {
        Self(
            (self.0 & !(REUSE_MASK << REUSE_SHIFT) & !SPENT_MASK)
                | (((self.reuse() + 1) & REUSE_MASK) << REUSE_SHIFT)
                | SPENT_MASK,
        )
    }

    /// Whether the entry is changing its key.
    pub const fn is_changing_key(self) -> bool {
        self.0 & SPENT_MASK == SPENT_MASK
    }

    /// The same slot with another spend.
    pub const fn with_spent(self, spent: u64) -> Self {
        Self((self.0 & !SPENT_MASK) | spent)
    }

    /// The same entry in another slot.
    pub const fn rolled(self, slot: u64, spent: u64) -> Self {
        Self::new(slot, self.reuse(), spent)
    }

    /// How the word's slot stands to `slot`; exact while they are less than 8 million slots apart.
    pub const fn age(self, slot: u64) -> Age {
        let behind = slot.wrapping_sub(self.0 >> SLOT_SHIFT) & SLOT_MASK;
        match behind {
            // Never used: of no slot, and certainly not of a later one.
            _ if self.0 == 0 => Age::Past(SLOT_MASK),
            0 => Age::Same,
            _ if behind <= SLOT_MASK / 2 => Age::Past(behind),
            _ => Age::Ahead,
        }
    }

    /// The full number of the word's slot, given one close to it.
    pub const fn slot_near(self, slot: u64) -> u64 {
        let behind = slot.wrapping_sub(self.0 >> SLOT_SHIFT) & SLOT_MASK;
        if behind <= SLOT_MASK / 2 { slot.wrapping_sub(behind) } else { slot.wrapping_add(SLOT_MASK + 1 - behind) }
    }
}

const SPENT_MASK: u64 = (1 << 36) - 1;
const REUSE_SHIFT: u32 = 36;
const REUSE_MASK: u64 = 0xf;
const SLOT_SHIFT: u32 = 40;
const SLOT_MASK: u64 = (1 << 24) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_slot_reuse_and_spend_apart() {
        let slot = 1_795_000_000;
        let word = Word::new(slot, 15, 7);
        assert_eq!((word.spent(), word.reuse(), word.slot_near(slot + 3)), (7, 15, slot));
        assert_eq!(word.with_spent(8).slot_near(slot - 3), slot);
        assert_eq!(word.changing_key().reuse(), 0);
        assert!(word.changing_key().is_changing_key() && !Word::new(slot, 0, u64::MAX).is_changing_key());
    }

    #[test]
    fn the_age_of_a_word_survives_the_wrap_of_its_slot() {
        let check = |word: u64, slot: u64, expected| assert_eq!(Word::new(word, 0, 0).age(slot), expected);
        check(5, 5, Age::Same);
        check(0, 13_144_656, Age::Past((1 << 24) - 1));
        check(5, 7, Age::Past(2));
        check(7, 5, Age::Ahead);
        check((1 << 24) - 1, (1 << 24) + 1, Age::Past(2));
    }
}
