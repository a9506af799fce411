//! What workers and the state machine of one process share: the table, the clock, what is durable. Atomics only.

use portolan_model::{HashKey, Now, WallTime};

use crate::{
    horizon::Barrier,
    key::Key,
    region::gates::Gates,
    sync::{AtomicBool, AtomicU64, Ordering::SeqCst},
    table::Table,
};

/// Outlives every set of definitions.
#[derive(Debug)]
pub(crate) struct Shared {
    pub hash_key: HashKey,
    pub table: Table,
    /// What this node may spend of each shard.
    pub gates: Gates,
    /// Charges that went to an overflow counter.
    pub overflowed: AtomicU64,
    /// Latest civil time seen, in Unix milliseconds: keeps the clock monotone.
    clock: AtomicU64,
    /// Civil time at most, when the clock that does not leap began: in Unix milliseconds.
    pace: AtomicU64,
    /// A durable write is wanted, or a chunk of the owner.
    attention: AtomicBool,
    /// This node shares its region's limits.
    active: AtomicBool,
}

impl Shared {
    pub fn new(hash_key: HashKey, capacity: usize, barrier: Barrier, now: Now) -> Self {
        Self {
            hash_key,
            table: Table::new(capacity),
            gates: Gates::new(&barrier),
            overflowed: AtomicU64::new(0),
            clock: AtomicU64::new(barrier.resume(now.wall).as_unix_millis()),
            pace: AtomicU64::new(u64::MAX),
            attention: AtomicBool::new(false),
            active: AtomicBool::new(false),
        }
    }

    /// Civil time, monotone over all threads.
    #[inline]
    pub fn wall(&self, now: Now) -> WallTime {
        let seen = self.latest();
        if now.wall <= seen {
            return seen;
        }
        let wall = self.reading(now);
        self.raise_clock(wall);
        wall.max(seen)
    }

    /// What a clock that shows `now` is taken for: it may have leapt.
    pub fn reading(&self, now: Now) -> WallTime {
        let since = now.mono.as_nanos() / 1_000_000;
        now.wall.min(WallTime::from_unix_millis(self.pace.load(SeqCst).saturating_add(since)))
    }

    /// Takes no clock for more than shows `wall` at this moment, and as much more later; `None`: takes all as they are.
    pub fn set_pace(&self, most: Option<Now>) {
        let pace = |Now { mono, wall }: Now| wall.as_unix_millis().saturating_sub(mono.as_nanos() / 1_000_000);
        self.pace.store(most.map_or(u64::MAX, pace), SeqCst);
    }

    /// The latest civil time any thread has seen.
    #[inline]
    pub fn latest(&self) -> WallTime {
        WallTime::from_unix_millis(self.clock.load(SeqCst))
    }

    pub fn raise_clock(&self, wall: WallTime) {
        self.clock.fetch_max(wall.as_unix_millis(), SeqCst);
    }

    /// Whether this node owns the key now, be it for slots to come only.
    pub fn owns(&self, key: Key) -> bool {
        !self.gates.of(key).is_foreign()
    }

    /// Whether anything can be admitted: false until this node has taken over what it owns.
    pub fn is_active(&self) -> bool {
        self.active.load(SeqCst)
    }

    /// Returns whether it was before.
    pub fn set_active(&self, active: bool) -> bool {
        self.active.swap(active, SeqCst)
    }

    /// Lets slots be spent that begin before this, of every shard that is this node's.
    #[cfg(test)]
    pub fn raise_horizon(&self, horizon: WallTime) {
        self.gates.all().for_each(|gate| gate.raise_horizon(horizon));
    }

    pub fn ask_attention(&self) {
        self.attention.store(true, SeqCst);
    }

    pub fn take_attention(&self) -> bool {
        self.attention.load(SeqCst) && self.attention.swap(false, SeqCst)
    }
}
