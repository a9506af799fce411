//! One key's three words in one limit: own spend, spend of the others, and the durable ceiling. Decides only whether
//! words belong to the slot asked about; the limiter decides what they allow.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::word::{Age, Word};

/// Atomics only. `own` is moved by workers, `others` and `durable` by the state machine.
#[derive(Debug, Default)]
pub(crate) struct Counter {
    own: AtomicU64,
    others: AtomicU64,
    durable: AtomicU64,
}

/// A unit charged, remembered so that it can be given back to the same slot of the same key and to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    slot: u64,
    reuse: u64,
}

impl Counter {
    /// The own word.
    pub fn own(&self) -> Word {
        Word::from_bits(self.own.load(SeqCst))
    }

    /// Spend of the other regions in `slot`, as last published; 0 for another slot.
    pub fn others(&self, slot: u64) -> u64 {
        spent_in(&self.others, slot).unwrap_or(0)
    }

    /// The durable ceiling of `slot`, if a mark set one.
    pub fn ceiling(&self, slot: u64) -> Option<u64> {
        spent_in(&self.durable, slot)
    }

    /// Moves the own word from `seen` to `spent` in `slot`; fails when anything happened to it since.
    pub fn advance(&self, seen: Word, slot: u64, spent: u64) -> Option<Receipt> {
        let next = seen.rolled(slot, spent);
        self.own.compare_exchange(seen.bits(), next.bits(), SeqCst, SeqCst).ok()?;
        Some(Receipt { slot, reuse: next.reuse() })
    }

    /// Gives one unit back, unless the slot or the key has changed since: then there is nothing left to undo.
    pub fn give_back(&self, receipt: Receipt) {
        let undo = |bits| {
            let word = Word::from_bits(bits);
            let same = !word.is_changing_key() && word.reuse() == receipt.reuse && word.age(receipt.slot) == Age::Same;
            (same && word.spent() > 0).then(|| word.with_spent(word.spent() - 1).bits())
        };
        // An error says that the receipt is void, which is the answer too.
        let _ = self.own.fetch_update(SeqCst, SeqCst, undo);
    }

    /// Publishes what the other regions spent in `slot`.
    pub fn publish_others(&self, slot: u64, spent: u64) {
        self.others.store(Word::new(slot, 0, spent).bits(), SeqCst);
    }

    /// Raises the durable ceiling of `slot`.
    pub fn raise_ceiling(&self, slot: u64, spent: u64) {
        if self.ceiling(slot).is_none_or(|ceiling| ceiling < spent) {
            self.durable.store(Word::new(slot, 0, spent).bits(), SeqCst);
        }
    }

    /// Raises the own spend of `slot` to at least `spent`.
    pub fn raise_own(&self, slot: u64, spent: u64) {
        let raise = |bits| {
            let word = Word::from_bits(bits);
            let behind = word.age(slot) != Age::Same || word.spent() < spent;
            (behind && !word.is_changing_key()).then(|| word.rolled(slot, spent).bits())
        };
        let _ = self.own.fetch_update(SeqCst, SeqCst, raise);
    }

    /// Bars the path so that the key can change; fails when the word moved.
    pub fn begin_key_change(&self, seen: Word) -> bool {
        self.own.compare_exchange(seen.bits(), seen.changing_key().bits(), SeqCst, SeqCst).is_ok()
    }

    /// Forgets what the last key knew of others and of marks.
    pub fn clear_published(&self) {
        self.others.store(0, SeqCst);
        self.durable.store(0, SeqCst);
    }

    /// Forgets counts of slots before the one before `current`, so that none is left when slot numbers wrap and it would
    /// read as one of a slot to come. For counters that are never given to another key; only the state machine calls it.
    pub fn retire(&self, current: u64) {
        let is_over = |word: Word| matches!(word.age(current), Age::Past(slots) if slots > 1);
        let word = self.own();
        if is_over(word) {
            // An error says that it is in use again.
            let _ = self.own.compare_exchange(word.bits(), 0, SeqCst, SeqCst);
        }
        for published in [&self.others, &self.durable] {
            if is_over(Word::from_bits(published.load(SeqCst))) {
                published.store(0, SeqCst);
            }
        }
    }

    /// Starts the count of another key, keeping the reuse number; ends the change of the key.
    pub fn start(&self, slot: u64, spent: u64) {
        let reuse = self.own().reuse();
        self.own.store(Word::new(slot, reuse, spent).bits(), SeqCst);
    }
}

fn spent_in(word: &AtomicU64, slot: u64) -> Option<u64> {
    let word = Word::from_bits(word.load(SeqCst));
    (word.bits() != 0 && word.age(slot) == Age::Same).then(|| word.spent())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(counter: &Counter, slot: u64) -> Receipt {
        let seen = counter.own();
        let spent = if seen.age(slot) == Age::Same { seen.spent() + 1 } else { 1 };
        counter.advance(seen, slot, spent).expect("nobody else moves it")
    }

    #[test]
    fn a_unit_is_given_back_to_its_own_slot_only() {
        let counter = Counter::default();
        let receipt = spend(&counter, 7);
        counter.give_back(receipt);
        assert_eq!(counter.own(), Word::new(7, 0, 0));

        let receipt = spend(&counter, 7);
        spend(&counter, 8);
        counter.give_back(receipt);
        assert_eq!(counter.own(), Word::new(8, 0, 1));
    }

    #[test]
    fn a_unit_is_not_given_back_to_the_next_key_of_an_entry() {
        let counter = Counter::default();
        let receipt = spend(&counter, 7);
        assert!(counter.begin_key_change(counter.own()));
        counter.give_back(receipt);
        counter.start(7, 1);
        counter.give_back(receipt);
        assert_eq!((counter.own().spent(), counter.own().reuse()), (1, 1));
    }

    #[test]
    fn what_is_published_counts_in_its_slot_only() {
        let counter = Counter::default();
        counter.publish_others(7, 3);
        counter.raise_ceiling(7, 5);
        counter.raise_ceiling(7, 4);
        assert_eq!((counter.others(7), counter.others(8)), (3, 0));
        assert_eq!((counter.ceiling(7), counter.ceiling(8)), (Some(5), None));
    }
}
