//! Counters by key: a fixed table in which a known key is found and charged without a lock.
//!
//! A key lives in one of four buckets of eight entries, in eight of nine cases in the first. It is found by one byte of
//! each entry's key, which stand in a word per bucket: 1.3 bytes for each key, so that they are in a near cache where the
//! entries are not. A guess at the entry itself would save that look where it is right, and where it is wrong hold
//! everything up until the entry has come from memory. Only the first request of a key takes a lock, that of its
//! partition, for some tens of nanoseconds: two threads must not give one key two counters, and an entry must not change
//! its key under a thread that charges it. The second is guarded by the counter's words: they are barred before the tag
//! changes, so a charge meant for the old key fails. An entry with use in a live slot never changes its key; when no
//! other is left the caller's overflow is used.

use std::sync::PoisonError;

use portolan_config::LimitId;
use prefetch_index::prefetch_index;

use crate::{
    counter::{Counter, Start},
    key::Key,
    sync::{
        AtomicU64, Mutex, MutexGuard,
        Ordering::{Acquire, Relaxed, Release, SeqCst},
    },
    word::Word,
};

/// Fixed in size from the start: 64 bytes per entry, a byte to find it by, and a bit to say that it moved.
#[derive(Debug)]
pub(crate) struct Table {
    /// Buckets of a partition.
    size: usize,
    partitions: Box<[Mutex<()>]>,
    /// A byte of the key of each entry, 0 for a free one; a word per bucket.
    prints: Box<[AtomicU64]>,
    entries: Box<[Counter]>,
    moved: Box<[AtomicU64]>,
    /// A bit per word of `moved`: whether any of it is set.
    stirred: Box<[AtomicU64]>,
}

/// Place of an entry; valid while its tag is the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u32);

/// An entry that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub key: Key,
    pub limit: LimitId,
    pub place: Place,
    /// By the parity of the slot.
    pub words: [Word; 2],
}

/// What an entry is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    pub key: Key,
    pub limit: LimitId,
}

impl Table {
    /// A table in which about `capacity` keys find room.
    pub fn new(capacity: usize) -> Self {
        // Three quarters full, no key of a million was without room; four fifths full, three were.
        let wanted = (capacity.clamp(WAYS, MAX_CAPACITY) * 4 / 3).div_ceil(WAYS);
        let partitions = (wanted / LEAST_BUCKETS).next_power_of_two().clamp(1, MAX_PARTITIONS);
        let size = wanted.div_ceil(partitions).max(HOMES);
        let buckets = size * partitions;
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            size,
            partitions: (0..partitions).map(|_| Mutex::new(())).collect(),
            prints: words(buckets),
            entries: (0..buckets * WAYS).map(|_| Counter::default()).collect(),
            moved: words((buckets * WAYS).div_ceil(64)),
            stirred: words((buckets * WAYS).div_ceil(64 * 64)),
        }
    }

    /// Entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Buckets there are: the unit of a sweep.
    pub fn buckets(&self) -> usize {
        self.prints.len()
    }

    /// The entry of a key if it has one, and now and then that of another key: ask it.
    #[inline(always)]
    pub fn likely(&self, key: Key) -> Option<(Place, &Counter)> {
        let place = self.likely_place(key)?;
        Some((place, self.entries.get(place.0 as usize)?))
    }

    /// Has a processor fetch what [`likely`](Self::likely) will give, and waits for nothing but the print. Changes nothing.
    #[inline]
    pub fn prefetch(&self, key: Key) {
        if let Some(place) = self.likely_place(key) {
            prefetch_index(&self.entries, place.0 as usize);
        }
    }

    /// The entry of a key, if it has one.
    pub fn find(&self, key: Key) -> Option<Place> {
        (0..HOMES).find_map(|nth| {
            let bucket = self.home(key, nth);
            let mut hits = matching(self.prints[bucket].load(Acquire), print(key));
            while hits != 0 {
                let place = place(bucket, hits.trailing_zeros() as usize / 8);
                if self.counter(place).is_of(key) {
                    return Some(place);
                }
                hits &= hits - 1;
            }
            None
        })
    }

    /// The counter at `place`.
    #[inline]
    pub fn counter(&self, place: Place) -> &Counter {
        &self.entries[place.0 as usize]
    }

    /// Runs `found` on the key's entry, made with `start` if there was none, or `full` when there is no
    /// room for it; both while no other thread can make or unmake an entry for this key. An entry that `is_dead` may be
    /// given to the key.
    pub fn enter<R>(
        &self,
        tenant: Tenant,
        is_dead: impl Fn(&Counter) -> bool,
        start: impl FnOnce() -> Start,
        found: impl FnOnce(Place) -> R,
        full: impl FnOnce() -> R,
    ) -> R {
        let _guard = self.lock(tenant.key);
        if let Some(place) = self.find(tenant.key) {
            return found(place);
        }
        match self.make_room(tenant.key, is_dead) {
            Some(place) => {
                self.counter(place).settle(tenant.key, tenant.limit, start());
                self.set_print(place, print(tenant.key));
                found(place)
            }
            None => full(),
        }
    }

    /// Runs `then` on the key's entry, if it has one, while it cannot change its key.
    pub fn with<R>(&self, key: Key, then: impl FnOnce(&Counter) -> R) -> Option<R> {
        let _guard = self.lock(key);
        self.find(key).map(|place| then(self.counter(place)))
    }

    /// Says that the counter at `place` moved. Call after moving it.
    #[inline(always)]
    pub fn note_move(&self, place: Place) {
        let at = place.0 as usize;
        if self.moved.get(at / 64).is_some_and(|word| word.load(SeqCst) >> (at % 64) & 1 == 0) {
            self.note_first_move(at);
        }
    }

    /// The same of a key's entry, if it has one.
    pub fn note_move_of(&self, key: Key) {
        if let Some(place) = self.find(key) {
            self.note_move(place);
        }
    }

    #[inline(never)]
    fn note_first_move(&self, at: usize) {
        self.moved[at / 64].fetch_or(1 << (at % 64), SeqCst);
        // After the bit itself: a drain that comes in between finds it the next time.
        let (word, bit) = (&self.stirred[at / 4096], 1 << (at / 64 % 64));
        if word.load(SeqCst) & bit == 0 {
            word.fetch_or(bit, SeqCst);
        }
    }

    /// Hands every entry that moved since the last call to `each`.
    pub fn drain_moved(&self, mut each: impl FnMut(Moved, &Counter)) {
        for (at, stirred) in self.stirred.iter().enumerate() {
            for word in taken(stirred) {
                let word = at * 64 + word;
                for bit in taken(&self.moved[word]) {
                    let place = Place((word * 64 + bit) as u32);
                    if let Some(moved) = self.read(place) {
                        each(moved, self.counter(place));
                    }
                }
            }
        }
    }

    /// Hands every key to `each`, while its entry cannot change its key: costs a walk over the whole table. `each` must not
    /// look for a key under a lock.
    pub fn for_each(&self, mut each: impl FnMut(Key, &Counter)) {
        for bucket in 0..self.buckets() {
            let _guard = self.lock_partition(bucket / self.size);
            for counter in places(bucket).map(|place| self.counter(place)) {
                if let Some(key) = counter.key() {
                    each(key, counter);
                }
            }
        }
    }

    /// Frees the entries among `count` buckets from `from` on that are dead; returns where to go on. Only the state
    /// machine calls it: it knows the newest limits. `is_dead` may tidy up what it finds.
    pub fn sweep(&self, from: usize, count: usize, is_dead: impl Fn(&Counter) -> bool) -> usize {
        for step in 0..count.min(self.buckets()) {
            let bucket = (from + step) % self.buckets();
            let _guard = self.lock_partition(bucket / self.size);
            for place in places(bucket) {
                let counter = self.counter(place);
                let (words, level) = (counter.words(), counter.level());
                if counter.key().is_some() && is_dead(counter) && counter.begin_key_change(words, level) {
                    counter.free();
                    self.set_print(place, 0);
                }
            }
        }
        (from + count) % self.buckets()
    }

    #[inline(always)]
    fn likely_place(&self, key: Key) -> Option<Place> {
        let print = print(key);
        (0..HOMES).find_map(|nth| {
            let bucket = self.home(key, nth);
            let hits = matching(self.prints.get(bucket)?.load(Acquire), print);
            (hits != 0).then(|| place(bucket, hits.trailing_zeros() as usize / 8))
        })
    }

    fn read(&self, place: Place) -> Option<Moved> {
        let counter = self.counter(place);
        for _ in 0..READ_ATTEMPTS {
            let words = counter.words();
            let key = counter.key()?;
            let limit = counter.limit();
            let again = counter.words();
            let unmoved = |at: usize| !words[at].is_changing_key() && words[at].reuse() == again[at].reuse();
            if counter.is_of(key) && unmoved(0) && unmoved(1) {
                return Some(Moved { key, limit, place, words });
            }
        }
        None
    }

    fn make_room(&self, key: Key, is_dead: impl Fn(&Counter) -> bool) -> Option<Place> {
        let homes: [usize; HOMES] = std::array::from_fn(|nth| self.home(key, nth));
        let is_free = |place: &Place| self.counter(*place).key().is_none();
        let free = |bucket: &usize| places(*bucket).filter(is_free).count();
        // The first that is not nearly full, since that is where a key is looked for first; else the emptiest.
        let roomy = homes.into_iter().find(|bucket| free(bucket) > KEPT_FREE);
        let best = roomy.or_else(|| homes.into_iter().max_by_key(free))?;
        places(best).find(is_free).or_else(|| {
            homes.into_iter().flat_map(places).find(|&place| {
                let counter = self.counter(place);
                let (words, level) = (counter.words(), counter.level());
                is_dead(counter) && counter.begin_key_change(words, level)
            })
        })
    }

    /// Only under the partition's lock. A reader that misses the change looks again under the lock.
    fn set_print(&self, place: Place, print: u8) {
        let (word, shift) = (&self.prints[place.0 as usize / WAYS], place.0 as usize % WAYS * 8);
        let others = word.load(Relaxed) & !(0xff << shift);
        word.store(others | u64::from(print) << shift, Release);
    }

    /// The buckets a key may live in, all in its partition; two may be the same.
    #[inline(always)]
    fn home(&self, key: Key, nth: usize) -> usize {
        match nth {
            0 => spread(spreading(key), self.prints.len()),
            nth => {
                let bits = spreading(key).wrapping_mul(GOLDEN[nth]);
                self.partition(key) * self.size + spread(bits, self.size)
            }
        }
    }

    fn partition(&self, key: Key) -> usize {
        spread(spreading(key), self.partitions.len())
    }

    fn lock(&self, key: Key) -> MutexGuard<'_, ()> {
        self.lock_partition(self.partition(key))
    }

    fn lock_partition(&self, partition: usize) -> MutexGuard<'_, ()> {
        // The lock guards no value: what a panicking thread left behind is as consistent as the atomics are.
        self.partitions[partition].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bits that are set in a word, which is cleared.
fn taken(word: &AtomicU64) -> impl Iterator<Item = usize> {
    let mut bits = if word.load(SeqCst) == 0 { 0 } else { word.swap(0, SeqCst) };
    std::iter::from_fn(move || {
        let bit = bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        (bit < 64).then_some(bit)
    })
}

/// The byte that a key is found by.
fn print(key: Key) -> u8 {
    key.bits() as u8
}

/// The bits of a key that its homes are drawn from: all but those of its shard, so that a node that is asked for a few
/// shards only fills its table evenly.
fn spreading(key: Key) -> u64 {
    key.bits() << 8
}

/// Spreads a number over any size. The high part of a product: the partition of a first bucket is the key's.
#[inline(always)]
fn spread(bits: u64, over: usize) -> usize {
    ((u128::from(bits) * over as u128) >> 64) as usize
}

/// The top bit of every byte of `prints` that may be `print`: none that is stays out, one beside such may be in.
fn matching(prints: u64, print: u8) -> u64 {
    let differing = prints ^ (u64::from(print) * ONES);
    differing.wrapping_sub(ONES) & !differing & (ONES << 7)
}

fn places(bucket: usize) -> impl Iterator<Item = Place> {
    (0..WAYS).map(move |way| place(bucket, way))
}

fn place(bucket: usize, way: usize) -> Place {
    Place((bucket * WAYS + way) as u32)
}

/// Buckets that a key may live in.
const HOMES: usize = 4;

/// Entries left free in a bucket while another home has room.
const KEPT_FREE: usize = 1;

/// Odd; of the first home none.
const GOLDEN: [u64; HOMES] = [1, 0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// Entries per bucket: a byte of a word for each.
const WAYS: usize = 8;

const ONES: u64 = 0x0101_0101_0101_0101;

/// Most keys: 2 GiB of table.
const MAX_CAPACITY: usize = 1 << 24;

/// Buckets of a partition at least, but for the smallest table: so many that chance fills none much more than another.
const LEAST_BUCKETS: usize = 512;

/// Most locks for first requests of keys.
const MAX_PARTITIONS: usize = 64;

/// How often a read is tried while workers give the entry to other keys; a missed entry is marked as moved again.
const READ_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Aux;

    fn key(key: u64) -> Key {
        Key::from_bits(key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn enter(table: &Table, number: u64, slot: u64) -> Option<Place> {
        let tenant = Tenant { key: key(number), limit: LimitId(1) };
        table.enter(
            tenant,
            |counter| counter.is_over(slot),
            || Start { slot, used: [0; 2], aux: Aux::None },
            Some,
            || None,
        )
    }

    #[test]
    fn a_key_keeps_its_entry() {
        let table = Table::new(1000);
        let places: Vec<_> = (1..=1000).map(|key| enter(&table, key, 5).expect("there is room")).collect();
        let again: Vec<_> = (1..=1000).map(|key| enter(&table, key, 6).expect("it is there")).collect();
        assert_eq!(places, again);
    }

    #[test]
    fn as_many_keys_as_were_asked_for_have_room() {
        let table = Table::new(100_000);
        let full = (1..=100_000).filter(|&key| enter(&table, key, 5).is_none()).count();
        assert_eq!((full, table.len() <= 134_000), (0, true));
    }

    #[test]
    fn to_prefetch_changes_nothing_whether_or_not_a_key_has_an_entry() {
        let table = Table::new(8);
        let known = enter(&table, 1, 5);
        let prefetch_all = || (1..1000).for_each(|number| table.prefetch(key(number)));
        prefetch_all();
        table.drain_moved(|moved, _| panic!("{moved:?}"));
        assert_eq!((table.find(key(1)), table.find(key(2))), (known, None));
        // Nor where no entry is left for those that have none.
        let found = || (1..1000).filter_map(|number| table.find(key(number))).collect::<Vec<_>>();
        (1..1000).for_each(|number| {
            enter(&table, number, 5);
        });
        let before = found();
        prefetch_all();
        assert_eq!((found(), before.len()), (before, table.len()));
    }

    #[test]
    fn an_entry_is_one_cache_line() {
        assert_eq!((size_of::<Counter>(), align_of::<Counter>()), (64, 64));
    }

    #[test]
    fn a_live_entry_is_never_given_away_and_a_dead_one_is() {
        let table = Table::new(8);
        let taken = (1..1000).filter(|&key| enter(&table, key, 5).is_some()).count();
        assert_eq!(taken, table.len());
        assert_eq!(enter(&table, 2000, 7), None);
        let place = enter(&table, 2000, 8).expect("slot 6 is over for good in slot 8");
        assert_eq!(table.counter(place).word(8), Word::new(8, 1, 0));
    }

    #[test]
    fn a_sweep_frees_dead_entries() {
        let check = |slot, expected| {
            let table = Table::new(8);
            enter(&table, 1, 5);
            table.sweep(0, usize::MAX >> 1, |counter| counter.is_over(slot));
            assert_eq!(table.find(key(1)).is_some(), expected);
        };
        check(5, true);
        check(7, true);
        check(8, false);
    }

    #[test]
    fn an_entry_keeps_its_key_while_it_is_shown() {
        let table = Table::new(100);
        enter(&table, 1, 5);
        let mut shown = 0;
        table.for_each(|key, _| {
            shown += 1;
            assert!(table.partitions[table.partition(key)].try_lock().is_err(), "another key could take it");
        });
        assert_eq!(shown, 1);
    }

    #[test]
    fn what_moved_is_drained_once() {
        let table = Table::new(100);
        let place = enter(&table, 1, 5).expect("there is room");
        table.note_move(place);
        let drain = || {
            let mut seen = Vec::new();
            table.drain_moved(|moved, _| seen.push((moved.limit, moved.words[1])));
            seen
        };
        assert_eq!(drain(), [(LimitId(1), Word::new(5, 0, 0))]);
        assert_eq!(drain(), []);
    }

    #[test]
    fn a_print_is_found_wherever_it_stands() {
        for way in 0..8 {
            let prints = 0x0203_0405_0607_0809 & !(0xff << (way * 8)) | 0x42 << (way * 8);
            assert_eq!(matching(prints, 0x42).trailing_zeros() / 8, way);
        }
        assert_eq!(matching(0x0203_0405_0607_0809, 0x42), 0);
    }
}
