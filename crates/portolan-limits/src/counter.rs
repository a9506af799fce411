//! One key's entry in one limit: 64 bytes of atomics, one cache line. Decides only which slot a word belongs to and
//! whether it may move; the limiter decides what may be spent.
//!
//! Workers move `used`; the state machine takes from the same words and publishes the others. Rights are not lowered
//! within a slot: what is lent or handed on is added to `used`, so that it cannot be spent here at the same time. Rights
//! that are read late are therefore only too small.
//!
//! Memory order: a charge reads the word of its slot first (acquire), then everything else; whatever gives the entry to
//! another key bars both words before it changes anything and starts them after it has (release). So a charge that saw
//! anything of another key has read a word that its compare-and-swap no longer finds.

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    bucket::{BucketTime, Level},
    key::Key,
    pace::Pace,
    sync::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    verdict::WaitReason,
    word::{Age, MAX_AMOUNT, Published, Word},
};

/// Atomics only.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), repr(align(64)))]
pub(crate) struct Counter {
    /// The key's bits; 0 while free.
    tag: AtomicU64,
    /// Spent, lent and handed on, by the parity of the slot.
    used: [AtomicU64; 2],
    /// What may be used at most, by the parity of the slot; of a bucket what was borrowed, or how fast it fills.
    rights: [AtomicU64; 2],
    /// Spend of the other regions; of a bucket, what is out on loan; at a node that does not own the key, how much may be
    /// used before more is asked for.
    others: AtomicU64,
    /// The level of a bucket, or what a sliding window carries over.
    aux: AtomicU64,
    limit: AtomicU32,
    /// Units refused since the state machine last asked.
    refused: AtomicU32,
}

/// Units charged, remembered so that they can be given back to the same slot of the same key and to nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub slot: u64,
    pub reuse: u8,
    /// What a bucket was charged, in its time; 0 if the slot's word was.
    pub time: u64,
}

/// What an entry begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub slot: u64,
    /// What is used of the slot and of the next. The slot before counts as over.
    pub used: [u64; 2],
    pub aux: Aux,
}

/// What an entry begins with beside its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aux {
    None,
    /// What the slot before carries over.
    Carried(u64),
    /// A bucket, whatever its reuse number.
    Level(Level),
}

/// What may be used in a slot at most, and whether more may come within moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    pub amount: u64,
    pub pending: Option<WaitReason>,
}

impl Counter {
    /// Whether the entry is `key`'s. Ask after reading a word.
    #[inline]
    pub fn is_of(&self, key: Key) -> bool {
        self.tag.load(Acquire) == key.bits()
    }

    /// The key, if the entry has one.
    pub fn key(&self) -> Option<Key> {
        Some(self.tag.load(Acquire)).filter(|&tag| tag != 0).map(Key::from_bits)
    }

    /// The limit it counts for.
    pub fn limit(&self) -> LimitId {
        LimitId(self.limit.load(Relaxed))
    }

    /// The word that `slot` is counted in.
    #[inline]
    pub fn word(&self, slot: u64) -> Word {
        Word::from_bits(self.used[parity(slot)].load(Acquire))
    }

    /// What is used of `slot`; 0 if the word is another slot's.
    pub fn used(&self, slot: u64) -> u64 {
        let word = self.word(slot);
        if word.age(slot) == Age::Same && !word.is_changing_key() { word.amount() } else { 0 }
    }

    /// The rights published for `slot`.
    #[inline]
    pub fn rights(&self, slot: u64) -> Option<Allowance> {
        let (tag, amount) = self.published(slot)?;
        Some(Allowance { amount, pending: WaitReason::of_tag(tag) })
    }

    /// The rights published for `slot`, as the tag of what is pending and the amount.
    #[inline]
    pub fn published(&self, slot: u64) -> Option<(u64, u64)> {
        Published::of(self.rights[parity(slot)].load(Relaxed), slot)
    }

    /// Tokens of a bucket that were borrowed for `slot`.
    pub fn borrowed(&self, slot: u64) -> u64 {
        self.published(slot).filter(|(tag, _)| *tag != PACE).map_or(0, |(_, amount)| amount)
    }

    /// How fast a bucket fills in two neighbouring slots, where that is not by its share. The slots are near `current`.
    pub fn paces(&self, current: u64) -> [Option<(u64, Pace)>; 2] {
        [0, 1].map(|at: usize| {
            let bits = self.rights[at].load(Acquire);
            let (slot, amount) = Published::near(bits, current)?;
            let (tag, _) = Published::of(bits, slot)?;
            (tag == PACE).then(|| (slot, Pace::from_bits(amount)))
        })
    }

    /// Publishes how fast a bucket fills in `slot` and the next, in place of all paces there are. What was borrowed stays
    /// where no pace takes its place. The level has to be barred.
    pub fn publish_paces(&self, slot: u64, paces: [Option<Pace>; 2]) {
        let found = self.paces(slot);
        for (slot, pace) in (slot..).zip(paces) {
            if pace.is_some() || found[parity(slot)].is_some() {
                let bits = pace.map_or(0, |pace| Published::new(slot, PACE, pace.bits()).bits());
                self.rights[parity(slot)].store(bits, Release);
            }
        }
    }

    /// Publishes what was borrowed of a bucket for `slot`, unless as much is or a pace stands there.
    pub fn publish_borrowed(&self, slot: u64, borrowed: Allowance) -> bool {
        let rises = self.borrowed(slot) < borrowed.amount && self.paces(slot)[parity(slot)].is_none();
        if rises {
            self.publish_rights(slot, borrowed);
        }
        rises
    }

    /// Bars the level of a bucket and returns what it was; `None` while its entry changes its key. Only under the
    /// partition's lock, so that no other bars it.
    pub fn bar_level(&self) -> Option<Level> {
        loop {
            let seen = self.level();
            if seen == Level::CHANGING_KEY {
                return None;
            }
            if self.advance_level(seen, Level::CHANGING_KEY) {
                return Some(seen);
            }
        }
    }

    /// Ends what [`bar_level`](Self::bar_level) began.
    pub fn settle_level(&self, level: Level) {
        self.aux.store(level.bits(), Release);
    }

    /// Spend of the other regions in `slot`, as last published; 0 for another slot.
    #[inline]
    pub fn others(&self, slot: u64) -> u64 {
        Published::of(self.others.load(Relaxed), slot).map_or(0, |(_, amount)| amount)
    }

    /// Of a bucket: what is out on loan or granted to other nodes, and the last slot that it can be spent in. The slot is
    /// near `current`.
    pub fn out(&self, current: u64) -> Option<(u64, u64)> {
        Published::near(self.others.load(Acquire), current).filter(|&(_, amount)| amount > 0)
    }

    /// Publishes what of a bucket is out, to be spent by the end of `slot`.
    pub fn publish_out(&self, slot: u64, amount: u64) {
        let bits = if amount == 0 { 0 } else { Published::new(slot, 0, amount).bits() };
        self.others.store(bits, Release);
    }

    /// What is used of `slot`. None of it can be given back from here on, so that the total never falls. The number that
    /// tells charges from before wraps with every 16th call: by then none of them may be given back any more.
    pub fn commit(&self, slot: u64) -> u64 {
        let mut settled = 0;
        self.change(slot, |word| {
            let same = word.age(slot) == Age::Same;
            settled = if same { word.amount() } else { 0 };
            same.then(|| word.settled())
        });
        settled
    }

    /// Moves the word of `slot` from `seen` to `amount` used; fails when anything happened to it since.
    #[inline]
    pub fn advance(&self, seen: Word, slot: u64, amount: u64) -> Option<Receipt> {
        let next = seen.rolled(slot, amount);
        self.replace(slot, seen, next).then(|| Receipt { slot, reuse: next.reuse(), time: 0 })
    }

    /// Moves the word of `slot` from `seen` to `next`; fails when anything happened to it since.
    #[inline(always)]
    pub fn replace(&self, slot: u64, seen: Word, next: Word) -> bool {
        self.used[parity(slot)].compare_exchange(seen.bits(), next.bits(), AcqRel, Relaxed).is_ok()
    }

    /// Gives units back, unless the slot or the key has changed since: then there is nothing left to undo. Returns
    /// whether there was.
    pub fn give_back(&self, receipt: Receipt, units: u64) -> bool {
        if receipt.time > 0 {
            let given_back = |level: Level| level.given_back(receipt.time);
            return self.change_level(|level| (level.reuse() == receipt.reuse).then(|| given_back(level)));
        }
        self.change(receipt.slot, |word| {
            let open = word.reuse() == receipt.reuse && word.age(receipt.slot) == Age::Same && !word.is_sealed();
            open.then(|| word.with_amount(word.amount().saturating_sub(units)))
        })
    }

    /// Ends what a charge to `slot` stands for. An entry with anything in flight never changes its key, so it is the
    /// charge's whatever happened since.
    pub fn release(&self, slot: u64, units: u64) -> bool {
        self.change(slot, |word| {
            (word.age(slot) == Age::Same).then(|| word.with_amount(word.amount().saturating_sub(units)))
        })
    }

    /// Counts `units` more as used of `slot`, beyond any rights, or so many fewer. Whoever decided by what stood here before
    /// fails, even if the same stands here again. Returns whether they could be counted: of what is beyond a word a part
    /// would be, and all of it taken away again later.
    pub fn shift(&self, slot: u64, more: u64, fewer: u64) -> bool {
        self.change(slot, |word| {
            let used = if word.age(slot) == Age::Same { word.amount() } else { 0 };
            let used = used.saturating_add(more);
            (used <= MAX_AMOUNT).then(|| word.rolled(slot, used.saturating_sub(fewer)).settled())
        })
    }

    /// Lowers the rights of `slot` to `kept`, or to what is used of it if that is more: what they are then. For units that
    /// are released, not given back.
    pub fn lower_rights(&self, slot: u64, kept: u64, pending: Option<WaitReason>) -> u64 {
        let rights = self.rights(slot).map_or(0, |published| published.amount);
        let mut used = 0;
        // Nothing begins while all that may be used counts as used, but in place of what ends.
        self.change(slot, |word| {
            used = if word.age(slot) == Age::Same { word.amount() } else { 0 };
            Some(word.rolled(slot, used.max(rights)).settled())
        });
        let amount = kept.min(rights).max(used);
        self.publish_rights(slot, Allowance { amount, pending });
        self.shift(slot, 0, rights.saturating_sub(used));
        amount
    }

    /// Publishes what may be used in `slot`.
    pub fn publish_rights(&self, slot: u64, rights: Allowance) {
        let published = Published::new(slot, WaitReason::tag(rights.pending), rights.amount);
        self.rights[parity(slot)].store(published.bits(), Release);
    }

    /// Publishes what the other regions spent in `slot`, unless that of a later slot stands there.
    pub fn publish_others(&self, slot: u64, spent: u64) {
        if !Published::is_later(self.others.load(Relaxed), slot) {
            self.others.store(Published::new(slot, 0, spent).bits(), Release);
        }
    }

    /// Takes up to `at_most` of what `rights` leave in `slot`, which begins with `start` used; begins the slot if it is
    /// to come. Returns what was taken: it cannot be spent here any more.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub fn withdraw(&self, slot: u64, at_most: u64, rights: u64, start: u64) -> u64 {
        let mut taken = 0;
        self.change(slot, |word| {
            let used = match word.age(slot) {
                Age::Same if word.is_sealed() => return None,
                Age::Same => word.amount(),
                Age::Past(_) => start,
                Age::Ahead => return None,
            };
            taken = at_most.min(rights.saturating_sub(used));
            (taken > 0).then(|| word.rolled(slot, used + taken))
        });
        taken
    }

    /// Puts back what was withdrawn from `slot`, if that is still open.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub fn restore(&self, slot: u64, amount: u64) -> bool {
        self.change(slot, |word| {
            let open = word.age(slot) == Age::Same && !word.is_sealed();
            open.then(|| word.with_amount(word.amount().saturating_sub(amount)))
        })
    }

    /// Raises the use of `slot` to at least `amount`, unless its word counts a later slot.
    pub fn raise_used(&self, slot: u64, amount: u64) {
        self.change(slot, |word| match word.age(slot) {
            Age::Same => (word.amount() < amount).then(|| word.with_amount(amount.min(MAX_AMOUNT))),
            Age::Past(_) => Some(word.rolled(slot, amount)),
            Age::Ahead => None,
        });
    }

    /// Raises what `slot` carries over to at least `amount`.
    pub fn raise_carried(&self, slot: u64, amount: u64) {
        let amount = amount.max(self.used(slot));
        let raised = |bits| {
            let known = Published::of(bits, slot).map(|(_, known)| known);
            known.is_none_or(|known| known < amount).then(|| Published::new(slot, 0, amount).bits())
        };
        // An error says that it is as high.
        let _ = self.aux.fetch_update(AcqRel, Acquire, raised);
    }

    /// Raises everything to what an entry would begin with that was made at `wall`.
    pub fn raise_to(&self, Start { slot, used, aux }: Start, wall: WallTime) {
        match aux {
            Aux::None => {}
            // Before the word of the slot to come takes its place.
            Aux::Carried(amount) => self.raise_carried(slot.wrapping_sub(1), amount),
            Aux::Level(level) => {
                let wall = BucketTime::civil(wall);
                let behind = |seen: &Level| seen.was_asked() && seen.debt(wall) < level.debt(wall);
                self.change_level(|seen| behind(&seen).then(|| level.with_reuse(seen.reuse())));
            }
        }
        for (slot, used) in (slot..).zip(used).filter(|(_, used)| *used > 0) {
            self.raise_used(slot, used);
        }
    }

    /// Counts units of `slot` that are spent by another measure, and those of them that came back.
    pub fn count(&self, slot: u64, spent: u64, back: u64) {
        self.change(slot, |word| match word.age(slot) {
            Age::Same => {
                Some(word.with_amount(word.amount().saturating_add(spent).saturating_sub(back).min(MAX_AMOUNT)))
            }
            Age::Past(_) => Some(word.rolled(slot, spent.saturating_sub(back))),
            Age::Ahead => None,
        });
    }

    /// Counts units refused.
    pub fn refuse(&self, units: u32) {
        let add = |refused: u32| Some(refused.saturating_add(units));
        // Never fails: `add` always gives a value.
        let _ = self.refused.fetch_update(Relaxed, Relaxed, add);
    }

    /// Units refused since this was last asked.
    pub fn take_refused(&self) -> u64 {
        if self.refused.load(Relaxed) == 0 { 0 } else { self.refused.swap(0, Relaxed).into() }
    }

    /// Bars the path so that the key can change; fails when a word or the level is not as `seen`. Only under the
    /// partition's lock.
    pub fn begin_key_change(&self, seen: [Word; 2], level: Level) -> bool {
        let bar = |at: usize| {
            let (from, to) = (seen[at].bits(), seen[at].changing_key().bits());
            self.used[at].compare_exchange(from, to, AcqRel, Relaxed).is_ok()
        };
        if !bar(0) {
            return false;
        }
        // Nobody moves a barred word, so what was there can be put back.
        if !bar(1) {
            self.used[0].store(seen[0].bits(), Release);
            return false;
        }
        if !self.advance_level(level, Level::CHANGING_KEY) {
            self.used[1].store(seen[1].bits(), Release);
            self.used[0].store(seen[0].bits(), Release);
            return false;
        }
        true
    }

    /// The level of a bucket.
    pub fn level(&self) -> Level {
        Level::from_bits(self.aux.load(Acquire))
    }

    /// Moves the level of a bucket; fails when anything happened to it since.
    pub fn advance_level(&self, seen: Level, next: Level) -> bool {
        self.aux.compare_exchange(seen.bits(), next.bits(), AcqRel, Relaxed).is_ok()
    }

    /// Moves the level of a bucket to what `to` makes of it, if anything.
    pub fn change_level(&self, mut to: impl FnMut(Level) -> Option<Level>) -> bool {
        let change = |bits| {
            let level = Level::from_bits(bits);
            if level == Level::CHANGING_KEY { None } else { to(level).map(Level::bits) }
        };
        self.aux.fetch_update(AcqRel, Acquire, change).is_ok()
    }

    /// What a sliding window carries over from `slot`, if that was said apart from the slot's word.
    #[inline]
    pub fn carried(&self, slot: u64) -> Option<u64> {
        Published::of(self.aux.load(Relaxed), slot).map(|(_, amount)| amount)
    }

    /// Says what a sliding window carries over from a sealed `slot`.
    pub fn publish_carried(&self, slot: u64, amount: u64) {
        self.aux.store(Published::new(slot, 0, amount).bits(), Release);
    }

    /// Seals `slot`, of which `unseen` counts as used if nothing else is known, so that nothing is added to it any more.
    /// Returns what is used of it; none when its word counts a later slot or the key is changing.
    pub fn seal(&self, slot: u64, unseen: u64) -> Option<u64> {
        let word = self.word(slot);
        if word.age(slot) == Age::Same && word.is_sealed() {
            return (!word.is_changing_key()).then(|| word.amount());
        }
        let mut sealed = None;
        let done = self.change(slot, |word| {
            let next = match word.age(slot) {
                Age::Same => word,
                Age::Past(_) => word.rolled(slot, unseen),
                Age::Ahead => return None,
            };
            sealed = Some(next.amount());
            Some(next.sealed())
        });
        sealed.filter(|_| done)
    }

    /// Whether nothing of slot `current`, the one before, or a later one is counted.
    pub fn is_over(&self, current: u64) -> bool {
        let past = |slot| match self.word(slot).age(slot) {
            Age::Past(slots) => slots,
            Age::Same | Age::Ahead => 0,
        };
        // The other parity's word is asked for the slot to come: of the slot before it is 2 behind that.
        past(current) > 0 && past(current + 1) > 2
    }

    /// Forgets words that read as of slots to come since the clock was set forward by months: they are of slots long over. No
    /// clock may have been later than `latest` when they were written.
    pub fn retire_wrapped(&self, latest: u64) {
        for slot in [latest, latest + 1] {
            let word = self.word(slot);
            if word.is_wrapped(latest) {
                let over = word.rolled(slot.saturating_sub(LONG_OVER), 0);
                // An error says that it is in use again.
                let _ = self.used[parity(slot)].compare_exchange(word.bits(), over.bits(), AcqRel, Relaxed);
            }
        }
    }

    /// Both words, to be barred as they are.
    pub fn words(&self) -> [Word; 2] {
        [0, 1].map(|at: usize| Word::from_bits(self.used[at].load(Acquire)))
    }

    /// Gives the entry to a key; ends the change of a barred entry. Only under the partition's lock, for an entry that is
    /// free or barred.
    pub fn settle(&self, key: Key, limit: LimitId, Start { slot, used, aux }: Start) {
        let [even, odd] = self.words();
        for published in [&self.rights[0], &self.rights[1], &self.others] {
            published.store(0, Relaxed);
        }
        let aux = match aux {
            Aux::None => 0,
            Aux::Carried(amount) => Published::new(slot.wrapping_sub(1), 0, amount).bits(),
            Aux::Level(level) => level.with_reuse(even.reuse()).bits(),
        };
        self.limit.store(limit.0, Relaxed);
        self.refused.store(0, Relaxed);
        let barred = even.is_changing_key();
        if barred {
            // Before the words: nobody passes a barred word, and who reads one of the new key must find its tag.
            self.tag.store(key.bits(), Release);
        }
        self.aux.store(aux, Release);
        let (this, other) = if parity(slot) == 0 { (even, odd) } else { (odd, even) };
        self.used[parity(slot + 1)].store(Word::new(slot + 1, other.reuse(), used[1]).bits(), Release);
        self.used[parity(slot)].store(Word::new(slot, this.reuse(), used[0]).bits(), Release);
        if !barred {
            // After the words: nobody passes a free tag, and who finds this one must not move a word of before.
            self.tag.store(key.bits(), Release);
        }
    }

    /// Frees a barred entry. Only under the partition's lock.
    pub fn free(&self) {
        self.tag.store(0, Release);
        self.aux.store(0, Release);
        for (at, word) in self.words().into_iter().enumerate() {
            self.used[at].store(Word::new(0, word.reuse(), 0).bits(), Release);
        }
    }

    /// Forgets what belongs to slots other than `current` and its neighbours, so that none is left when slot numbers
    /// wrap and it would read as one of a slot to come. For counters that never change their key, only by the state
    /// machine.
    pub fn retire(&self, current: u64) {
        self.retire_wrapped(current);
        for slot in [current, current + 1] {
            let word = self.word(slot);
            if matches!(word.age(slot), Age::Past(slots) if slots > 2) {
                // An error says that it is in use again.
                let _ = self.used[parity(slot)].compare_exchange(word.bits(), 0, AcqRel, Relaxed);
            }
        }
        self.retire_published(current);
    }

    /// Forgets what was published for slots other than `current` and its neighbours.
    pub fn retire_published(&self, current: u64) {
        let live = |bits| {
            [current.wrapping_sub(1), current, current + 1].iter().any(|&slot| Published::of(bits, slot).is_some())
        };
        for published in [&self.rights[0], &self.rights[1], &self.others] {
            if !live(published.load(Relaxed)) {
                published.store(0, Relaxed);
            }
        }
    }

    fn change(&self, slot: u64, mut to: impl FnMut(Word) -> Option<Word>) -> bool {
        let change = |bits| {
            let word = Word::from_bits(bits);
            if word.is_changing_key() { None } else { to(word).map(Word::bits) }
        };
        self.used[parity(slot)].fetch_update(AcqRel, Acquire, change).is_ok()
    }
}

/// Tells how fast a bucket fills from what was borrowed for a slot; nothing of a bucket waits for a mark.
const PACE: u64 = WaitReason::tag(Some(WaitReason::Mark));

/// Slots before the present one of which nothing matters any more; an even number.
const LONG_OVER: u64 = 4096;

const fn parity(slot: u64) -> usize {
    (slot & 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_wrapped_is_of_a_slot_long_over_and_keeps_its_reuse_number() {
        let (slot, sixty_days) = (1_795_000_000, 5_184_000);
        for begin in [slot, slot + 1] {
            let counter = Counter::default();
            for slot in [begin, begin + 1] {
                counter.count(slot, 5, 0);
                counter.commit(slot);
            }
            let later = begin + sixty_days;
            let ages = || [later, later + 1].map(|slot| counter.word(slot).age(slot));
            assert_eq!(ages(), [Age::Ahead; 2]);
            counter.retire_wrapped(begin);
            assert_eq!([begin, begin + 1].map(|slot| counter.used(slot)), [5, 5]);
            counter.retire_wrapped(later);
            assert_eq!(ages(), [Age::Past(LONG_OVER); 2]);
            assert_eq!(counter.words().map(Word::reuse), [1, 1]);
            assert!(counter.is_over(later));
            counter.count(later, 7, 0);
            assert_eq!(counter.used(later), 7);
        }
    }
}
