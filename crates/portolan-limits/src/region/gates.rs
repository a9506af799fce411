//! What this node may spend of each shard, as the request path reads it: whether it is its own, up to where its horizon
//! is durable, and what a process before may have spent. Atomics only; the state machine beside it decides.

use portolan_model::WallTime;

use crate::{
    horizon::Barrier,
    key::Key,
    region::shards::{SHARDS, Shard},
    sync::{AtomicU64, Ordering::SeqCst},
};

/// One shard, one cache line.
#[derive(Debug)]
#[cfg_attr(not(loom), repr(align(64)))]
pub(crate) struct Gate {
    /// Slots that begin before this durable instant may be spent, in Unix milliseconds; 0: none yet. [`FOREIGN`]: another
    /// node owns the shard.
    horizon: AtomicU64,
    /// No process before can have spent slots that begin at this instant or later.
    untouched_from: AtomicU64,
    barrier: [AtomicU64; 3],
    /// Requests of concurrency limits may begin before this instant, in Unix milliseconds: of its own shards once it is
    /// known what other nodes have in flight, of foreign ones as far as their owner lets what it allotted be used.
    flow: AtomicU64,
}

/// How far a shard may be spent of: everything that begins before an instant, or what its owner granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reach(u64);

/// All shards.
#[derive(Debug)]
pub(crate) struct Gates([Gate; SHARDS]);

impl Gates {
    /// All shards are this node's, and none may be spent of yet.
    pub fn new(barrier: &Barrier) -> Self {
        let gate = |_| {
            let [horizon, untouched_from, flow] = [0, 0, 0].map(AtomicU64::new);
            let gate = Gate { horizon, untouched_from, barrier: [0, 0, 0].map(AtomicU64::new), flow };
            gate.set_barrier(barrier);
            gate
        };
        Self(std::array::from_fn(gate))
    }

    #[inline]
    pub fn of(&self, key: Key) -> &Gate {
        self.shard(Shard::of(key))
    }

    #[inline]
    pub fn shard(&self, shard: Shard) -> &Gate {
        &self.0[shard.index()]
    }

    pub fn all(&self) -> impl Iterator<Item = &Gate> {
        self.0.iter()
    }
}

impl Gate {
    /// Whether another node owns the shard: then only what it granted may be spent.
    #[inline]
    pub fn is_foreign(&self) -> bool {
        self.reach().is_foreign()
    }

    /// Slots that begin before this may be spent; none of a foreign shard.
    #[inline]
    pub fn horizon(&self) -> Option<WallTime> {
        let reach = self.reach();
        (!reach.is_foreign()).then(|| WallTime::from_unix_millis(reach.0))
    }

    /// The same in one word.
    #[inline]
    pub fn reach(&self) -> Reach {
        Reach(self.horizon.load(SeqCst))
    }

    /// Whether no process before can have spent a slot that begins at `begin`.
    #[inline]
    pub fn is_untouched(&self, begin: WallTime) -> bool {
        begin.as_unix_millis() >= self.untouched_from.load(SeqCst)
    }

    /// What a process before may have spent.
    #[inline]
    pub fn barrier(&self) -> Barrier {
        let [horizon, floor, closed] =
            self.barrier.each_ref().map(|instant| WallTime::from_unix_millis(instant.load(SeqCst)));
        Barrier::of(horizon, floor, closed)
    }

    /// Gives the shard to another node.
    pub fn give_away(&self) {
        self.horizon.store(FOREIGN, SeqCst);
    }

    /// Takes the shard over; nothing may be spent until the horizon is raised.
    pub fn take(&self, barrier: &Barrier) {
        self.set_barrier(barrier);
        self.horizon.store(0, SeqCst);
    }

    /// Lets slots be spent that begin before a later instant. Not of a foreign shard.
    pub fn raise_horizon(&self, horizon: WallTime) {
        let raised = |before| (before != FOREIGN).then(|| horizon.as_unix_millis().max(before));
        // An error says that it is foreign.
        let _ = self.horizon.fetch_update(SeqCst, SeqCst, raised);
    }

    /// Lets nothing be spent, granted or not, until the horizon is raised.
    pub fn shut(&self) {
        self.horizon.store(0, SeqCst);
        self.stop_flow();
    }

    /// The instant before which requests of concurrency limits may begin.
    #[inline]
    pub fn flow(&self) -> WallTime {
        WallTime::from_unix_millis(self.flow.load(SeqCst))
    }

    /// Lets requests of concurrency limits begin before a later instant.
    pub fn raise_flow(&self, until: WallTime) {
        self.flow.fetch_max(until.as_unix_millis(), SeqCst);
    }

    /// Lets no request of a concurrency limit begin.
    pub fn stop_flow(&self) {
        self.flow.store(0, SeqCst);
    }

    fn set_barrier(&self, barrier: &Barrier) {
        for (place, instant) in self.barrier.iter().zip(barrier.instants()) {
            place.store(instant.as_unix_millis(), SeqCst);
        }
        self.untouched_from.store(barrier.last_spent().as_unix_millis(), SeqCst);
    }
}

impl Reach {
    /// Whether a slot that begins at `begin` lies within it, as any does of a foreign shard.
    #[inline]
    pub fn covers(self, begin: WallTime) -> bool {
        begin.as_unix_millis() < self.0
    }

    /// Whether another node owns the shard.
    #[inline]
    pub fn is_foreign(self) -> bool {
        self.0 == FOREIGN
    }
}

const FOREIGN: u64 = u64::MAX;
