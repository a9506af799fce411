//! Counters by key: a fixed, open-addressed table in which a known key is found and charged without a lock.
//!
//! A key lives in one of two buckets of eight; the tags of a bucket are one cache line, so a hit costs one probe and one
//! counter. Only the first request of a key takes a lock, that of its partition, for some tens of nanoseconds: two
//! threads must not give one key two counters, and an entry must not change its key under a thread that charges it.
//! The second is guarded by the counter's word: it is barred before the tag changes, so a charge meant for the old key
//! fails. An entry with use in a live slot never changes its key; when no other is left the caller's overflow is used.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    counter::Counter,
    key::Key,
    word::{Age, Word},
};

/// Fixed in size from the start: 40 bytes per entry and a bit to say that it moved.
#[derive(Debug)]
pub(crate) struct Table {
    partitions: Box<[Mutex<()>]>,
    buckets: Box<[Bucket]>,
    moved: Box<[AtomicU64]>,
}

/// Place of an entry; valid while its tag is the key's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(usize);

/// An entry read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub key: Key,
    pub limit: LimitId,
    pub word: Word,
}

/// What an entry is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenant {
    pub key: Key,
    pub limit: LimitId,
    pub window_ms: u64,
}

impl Table {
    /// A table in which about `capacity` keys find room.
    pub fn new(capacity: usize) -> Self {
        let wanted = capacity.clamp(WAYS, MAX_CAPACITY) * 5 / 4;
        let buckets = wanted.div_ceil(WAYS).next_power_of_two().max(2);
        let partitions = (buckets / 8).clamp(1, MAX_PARTITIONS);
        Self {
            partitions: (0..partitions).map(|_| Mutex::new(())).collect(),
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            moved: (0..(buckets * WAYS).div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Entries there are.
    pub fn len(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Buckets there are: the unit of a sweep.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The entry of a key, if it has one.
    pub fn find(&self, key: Key) -> Option<Place> {
        self.homes(key).into_iter().find_map(|bucket| self.find_in(bucket, key))
    }

    /// Whether the entry at `place` is (still) the key's.
    pub fn holds(&self, place: Place, key: Key) -> bool {
        self.tag(place).load(SeqCst) == key.bits()
    }

    /// The counter at `place`.
    pub fn counter(&self, place: Place) -> &Counter {
        &self.cell(place).counter
    }

    /// Runs `found` on the key's entry, made with `start` (slot and spend) if there was none, or `full` when there is
    /// no room for it; both while no other thread can make or unmake an entry for this key.
    pub fn enter<R>(
        &self,
        tenant: Tenant,
        wall: WallTime,
        start: impl FnOnce() -> (u64, u64),
        found: impl FnOnce(Place) -> R,
        full: impl FnOnce() -> R,
    ) -> R {
        let _guard = self.lock(tenant.key);
        if let Some(place) = self.find(tenant.key) {
            return found(place);
        }
        match self.make_room(tenant.key, wall) {
            Some(place) => {
                self.settle(place, tenant, start());
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
    pub fn note_move(&self, place: Place) {
        let (word, bit) = (&self.moved[place.0 / 64], 1 << (place.0 % 64));
        if word.load(SeqCst) & bit == 0 {
            word.fetch_or(bit, SeqCst);
        }
    }

    /// Hands every entry that moved since the last call to `each`.
    pub fn drain_moved(&self, mut each: impl FnMut(Entry, &Counter)) {
        for (at, word) in self.moved.iter().enumerate() {
            if word.load(SeqCst) == 0 {
                continue;
            }
            let mut bits = word.swap(0, SeqCst);
            while bits != 0 {
                let place = Place(at * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
                if let Some(entry) = self.read(place) {
                    each(entry, self.counter(place));
                }
            }
        }
    }

    /// Frees the entries among `count` buckets from `from` on that are dead at `wall` or whose limit has ended; returns
    /// where to go on. Only the state machine calls it: it knows the newest limits.
    pub fn sweep(&self, from: usize, count: usize, wall: WallTime, ended: impl Fn(LimitId) -> bool) -> usize {
        for step in 0..count.min(self.buckets.len()) {
            let bucket = (from + step) % self.buckets.len();
            let _guard = self.lock_partition(bucket / (self.buckets.len() / self.partitions.len()));
            for place in places(bucket) {
                let cell = self.cell(place);
                let word = cell.counter.own();
                let ended = || ended(LimitId(cell.limit.load(SeqCst)));
                let taken = self.tag(place).load(SeqCst) != 0;
                if taken && (cell.is_dead(word, wall) || ended()) && cell.counter.begin_key_change(word) {
                    self.tag(place).store(0, SeqCst);
                    cell.counter.start(0, 0);
                }
            }
        }
        (from + count) % self.buckets.len()
    }

    fn read(&self, place: Place) -> Option<Entry> {
        let cell = self.cell(place);
        for _ in 0..READ_ATTEMPTS {
            let word = cell.counter.own();
            let key = Key::from_bits(self.tag(place).load(SeqCst));
            let limit = LimitId(cell.limit.load(SeqCst));
            let unmoved = self.holds(place, key) && cell.counter.own().reuse() == word.reuse();
            if unmoved && !word.is_changing_key() {
                return (key.bits() != 0).then_some(Entry { key, limit, word });
            }
        }
        None
    }

    fn make_room(&self, key: Key, wall: WallTime) -> Option<Place> {
        let homes = self.homes(key);
        let free = |bucket: usize| places(bucket).filter(|&place| self.tag(place).load(SeqCst) == 0).count();
        let emptier = if free(homes[0]) >= free(homes[1]) { homes } else { [homes[1], homes[0]] };
        let candidates = || emptier.into_iter().flat_map(places);
        if let Some(place) = candidates().find(|&place| self.tag(place).load(SeqCst) == 0) {
            return Some(place);
        }
        candidates().find(|&place| {
            let cell = self.cell(place);
            let word = cell.counter.own();
            cell.is_dead(word, wall) && cell.counter.begin_key_change(word)
        })
    }

    /// Gives a free or barred entry to its next key.
    fn settle(&self, place: Place, tenant: Tenant, (slot, spent): (u64, u64)) {
        let cell = self.cell(place);
        let barred = cell.counter.own().is_changing_key();
        cell.counter.clear_published();
        cell.limit.store(tenant.limit.0, SeqCst);
        cell.window_ms.store(u32::try_from(tenant.window_ms).unwrap_or(ENDLESS), SeqCst);
        if barred {
            self.tag(place).store(tenant.key.bits(), SeqCst);
            cell.counter.start(slot, spent);
        } else {
            cell.counter.start(slot, spent);
            self.tag(place).store(tenant.key.bits(), SeqCst);
        }
    }

    fn find_in(&self, bucket: usize, key: Key) -> Option<Place> {
        let tags = &self.buckets[bucket].tags;
        tags.iter().position(|tag| tag.load(SeqCst) == key.bits()).map(|way| Place(bucket * WAYS + way))
    }

    /// The two buckets a key may live in, both in its partition.
    fn homes(&self, key: Key) -> [usize; 2] {
        let size = self.buckets.len() / self.partitions.len();
        let first = self.partition(key) * size;
        let hash = key.bits() as usize;
        let (one, two) = ((hash >> 8) & (size - 1), (hash >> 36) & (size - 1));
        [first + one, first + if two == one { one ^ 1 } else { two }]
    }

    fn partition(&self, key: Key) -> usize {
        key.bits() as usize & (self.partitions.len() - 1)
    }

    fn lock(&self, key: Key) -> std::sync::MutexGuard<'_, ()> {
        self.lock_partition(self.partition(key))
    }

    fn lock_partition(&self, partition: usize) -> std::sync::MutexGuard<'_, ()> {
        // The lock guards no value: what a panicking thread left behind is as consistent as the atomics are.
        self.partitions[partition].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, place: Place) -> &Cell {
        &self.buckets[place.0 / WAYS].cells[place.0 % WAYS]
    }

    fn tag(&self, place: Place) -> &AtomicU64 {
        &self.buckets[place.0 / WAYS].tags[place.0 % WAYS]
    }
}

fn places(bucket: usize) -> impl Iterator<Item = Place> {
    (0..WAYS).map(move |way| Place(bucket * WAYS + way))
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket {
    tags: [AtomicU64; WAYS],
    cells: [Cell; WAYS],
}

#[derive(Debug, Default)]
#[repr(align(32))]
struct Cell {
    counter: Counter,
    limit: AtomicU32,
    window_ms: AtomicU32,
}

impl Cell {
    /// Whether the entry's slot is neither the current nor the previous one of its limit. Asks the entry itself, not the
    /// definitions: a worker with an older set of them must not take a newer limit's entries for dead.
    fn is_dead(&self, word: Word, wall: WallTime) -> bool {
        let window_ms = u64::from(self.window_ms.load(SeqCst));
        if window_ms == u64::from(ENDLESS) || word.is_changing_key() {
            return false;
        }
        let slot = wall.as_unix_millis() / window_ms.max(1);
        matches!(word.age(slot), Age::Past(slots) if slots >= 2)
    }
}

/// Entries per bucket: one cache line of tags.
const WAYS: usize = 8;

/// Most keys: 640 MiB of table.
const MAX_CAPACITY: usize = 1 << 24;

/// Most locks for first requests of keys.
const MAX_PARTITIONS: usize = 64;

/// A window too long for the entry to remember; such an entry is freed only when its limit ends.
const ENDLESS: u32 = u32::MAX;

/// How often a read is tried while workers give the entry to other keys; a missed entry is marked as moved again.
const READ_ATTEMPTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_MS: u64 = 1000;

    fn at(slot: u64) -> WallTime {
        WallTime::from_unix_millis(slot * WINDOW_MS)
    }

    fn enter(table: &Table, key: u64, slot: u64) -> Option<Place> {
        let key = Key::from_bits(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let tenant = Tenant { key, limit: LimitId(1), window_ms: WINDOW_MS };
        table.enter(tenant, at(slot), || (slot, 0), Some, || None)
    }

    #[test]
    fn a_key_keeps_its_entry() {
        let table = Table::new(1000);
        let places: Vec<_> = (1..=1000).map(|key| enter(&table, key, 5).expect("there is room")).collect();
        let again: Vec<_> = (1..=1000).map(|key| enter(&table, key, 6).expect("it is there")).collect();
        assert_eq!(places, again);
    }

    #[test]
    fn a_live_entry_is_never_given_away_and_a_dead_one_is() {
        let table = Table::new(8);
        let taken = (1..1000).filter(|&key| enter(&table, key, 5).is_some()).count();
        assert_eq!(taken, table.len());
        assert_eq!(enter(&table, 2000, 6), None);
        let place = enter(&table, 2000, 7).expect("slot 5 is dead in slot 7");
        assert_eq!(table.counter(place).own(), Word::new(7, 1, 0));
    }

    #[test]
    fn a_sweep_frees_dead_entries_and_those_of_ended_limits() {
        let check = |slot, ended: bool, expected| {
            let table = Table::new(8);
            enter(&table, 1, 5);
            table.sweep(0, usize::MAX >> 1, at(slot), |_| ended);
            let key = Key::from_bits(0x9e37_79b9_7f4a_7c15);
            assert_eq!(table.find(key).is_some(), expected);
        };
        check(6, false, true);
        check(7, false, false);
        check(5, true, false);
    }

    #[test]
    fn what_moved_is_drained_once() {
        let table = Table::new(100);
        let place = enter(&table, 1, 5).expect("there is room");
        table.note_move(place);
        let drain = || {
            let mut seen = Vec::new();
            table.drain_moved(|entry, _| seen.push((entry.limit, entry.word)));
            seen
        };
        assert_eq!(drain(), [(LimitId(1), Word::new(5, 0, 0))]);
        assert_eq!(drain(), []);
    }
}
