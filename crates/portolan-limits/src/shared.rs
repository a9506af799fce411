//! What workers and the state machine of one process share: the table, the clock, what is durable. Atomics only.

use portolan_model::{HashKey, Now, WallTime};

use crate::{
    horizon::Barrier,
    key::Key,
    region::{SHARDS, Shard},
    sync::{AtomicBool, AtomicU64, Ordering::SeqCst},
    table::Table,
};

/// Outlives every set of definitions.
#[derive(Debug)]
pub(crate) struct Shared {
    pub hash_key: HashKey,
    pub table: Table,
    /// Slots the process before this one may have spent.
    pub barrier: Barrier,
    /// Charges that went to an overflow counter.
    pub overflowed: AtomicU64,
    /// Slots that begin before this durable instant may be spent, in Unix milliseconds.
    horizon: AtomicU64,
    /// Latest civil time seen, in Unix milliseconds: keeps the clock monotone.
    clock: AtomicU64,
    /// A durable write is wanted, or a chunk of the owner.
    attention: AtomicBool,
    /// From when on this node owns the keys of each shard, in Unix milliseconds.
    owned_from: Box<[AtomicU64]>,
}

impl Shared {
    pub fn new(hash_key: HashKey, capacity: usize, barrier: Barrier, now: Now) -> Self {
        Self {
            hash_key,
            table: Table::new(capacity),
            barrier,
            overflowed: AtomicU64::new(0),
            horizon: AtomicU64::new(0),
            clock: AtomicU64::new(barrier.resume(now.wall).as_unix_millis()),
            attention: AtomicBool::new(false),
            owned_from: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Civil time, monotone over all threads.
    pub fn wall(&self, now: Now) -> WallTime {
        let seen = self.latest();
        if now.wall > seen {
            self.raise_clock(now.wall);
        }
        seen.max(now.wall)
    }

    /// The latest civil time any thread has seen.
    pub fn latest(&self) -> WallTime {
        WallTime::from_unix_millis(self.clock.load(SeqCst))
    }

    pub fn raise_clock(&self, wall: WallTime) {
        self.clock.fetch_max(wall.as_unix_millis(), SeqCst);
    }

    /// Slots that begin before this may be spent.
    pub fn horizon(&self) -> WallTime {
        WallTime::from_unix_millis(self.horizon.load(SeqCst))
    }

    /// Returns the horizon before.
    pub fn raise_horizon(&self, horizon: WallTime) -> WallTime {
        WallTime::from_unix_millis(self.horizon.fetch_max(horizon.as_unix_millis(), SeqCst))
    }

    /// Lets no slot be spent from here on: the horizon covers none. It may not be raised again.
    pub fn withdraw_horizon(&self) {
        self.horizon.store(0, SeqCst);
    }

    /// From when on this node owns the keys of `shard`: it has the region's share of slots that begin then or later.
    /// `None`: another node does. At first a node owns all.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub fn set_owner(&self, shard: Shard, from: Option<WallTime>) {
        let from = from.map_or(NEVER, WallTime::as_unix_millis);
        self.owned_from[shard.index()].store(from, SeqCst);
    }

    /// Whether this node owns the key now, be it for slots to come only.
    #[allow(dead_code, reason = "what lending and granting are made of")]
    pub fn owns(&self, key: Key) -> bool {
        self.owned_from[Shard::of(key).index()].load(SeqCst) != NEVER
    }

    /// Whether this node has the region's share of a slot of the key that begins at `begin`.
    pub fn owns_from(&self, key: Key, begin: WallTime) -> bool {
        self.owned_from[Shard::of(key).index()].load(SeqCst) <= begin.as_unix_millis()
    }

    pub fn ask_attention(&self) {
        self.attention.store(true, SeqCst);
    }

    pub fn take_attention(&self) -> bool {
        self.attention.load(SeqCst) && self.attention.swap(false, SeqCst)
    }
}

const NEVER: u64 = u64::MAX;
