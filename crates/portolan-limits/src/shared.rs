//! What workers and the state machine of one process share: the table, the clock, what is durable. Atomics only.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use portolan_model::{HashKey, Now, WallTime};

use crate::{horizon::Barrier, table::Table};

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
    /// A durable write is wanted.
    attention: AtomicBool,
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

    pub fn ask_attention(&self) {
        self.attention.store(true, SeqCst);
    }

    pub fn take_attention(&self) -> bool {
        self.attention.load(SeqCst) && self.attention.swap(false, SeqCst)
    }
}
