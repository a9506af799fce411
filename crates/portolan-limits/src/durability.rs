//! Decides what must be on disk before it is spent: the horizon for all slots, marks for keys of long windows. Never
//! waits: writes are handed out, numbered, and what they allow is released when they are reported durable.

use std::collections::{BTreeMap, VecDeque};

use portolan_config::LimitId;
use portolan_model::WallTime;

use crate::{
    horizon::{Barrier, HORIZON_LEAD, HORIZON_RENEWAL},
    key::Key,
    marks::{MARKS_PER_PAGE, Mark, MarkSequence, MarkWrite},
    region::ShardSet,
};

/// Shards of the region as a write tells of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seats {
    /// The epoch of the roster.
    pub epoch: u64,
    /// Those that are spent from once all that is wanted is durable.
    pub held: ShardSet,
    /// See [`MarkWrite::seated`].
    pub seated: ShardSet,
}

#[derive(Debug)]
pub(crate) struct Durability {
    /// What was left by this node's processes before and by whoever its shards were taken over from. Repeated in every
    /// write: whoever comes next must know of it, too, before this node has spent anything.
    inherited: Barrier,
    /// Highest mark asked for and not yet handed out.
    wanted: BTreeMap<(LimitId, Key, u64), Mark>,
    /// Handed out and not reported durable.
    in_flight: VecDeque<MarkWrite>,
    last: u64,
    horizon: WallTime,
    /// Of the last write.
    written: Seats,
}

impl Durability {
    pub fn new(inherited: Barrier) -> Self {
        let horizon = WallTime::default();
        let written = Seats::default();
        Self { inherited, wanted: BTreeMap::new(), in_flight: VecDeque::new(), last: 0, horizon, written }
    }

    /// Asks for a mark; a higher one replaces a lower one.
    pub fn want(&mut self, mark: Mark) {
        let wanted = self.wanted.entry((mark.limit, mark.key, mark.slot)).or_insert(mark);
        wanted.spent = wanted.spent.max(mark.spent);
    }

    /// The next write at `wall`, if one is due and not too many are on their way.
    pub fn poll(&mut self, wall: WallTime, seats: Seats) -> Option<MarkWrite> {
        let renewal = (self.horizon - HORIZON_LEAD) + HORIZON_RENEWAL <= wall || self.last == 0;
        let due = renewal || !self.wanted.is_empty() || seats != self.written;
        if !due || self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        self.horizon = self.horizon.max(wall + HORIZON_LEAD);
        self.last += 1;
        let mut marks = Vec::new();
        while let Some((_, mark)) = if marks.len() < MARKS_PER_PAGE { self.wanted.pop_first() } else { None } {
            marks.push(mark);
        }
        // Shards that came with more marks than fit this write follow with the last of those.
        let Seats { epoch, held, seated } = seats;
        let before = if self.written.epoch == epoch { self.written.held } else { ShardSet::default() };
        let held = if self.wanted.is_empty() { held } else { before.and(&held) };
        self.written = Seats { epoch, held, seated };
        let sequence = MarkSequence(self.last);
        let [horizon, floor, closed] = self.bequest(wall).instants();
        let write = MarkWrite { sequence, horizon, floor, closed, epoch, held, seated, marks };
        self.in_flight.push_back(write.clone());
        Some(write)
    }

    /// The writes that `sequence` reports durable, oldest first.
    pub fn release(&mut self, sequence: MarkSequence) -> impl Iterator<Item = MarkWrite> + '_ {
        std::iter::from_fn(move || self.in_flight.pop_front_if(|write| write.sequence <= sequence))
    }

    /// What whoever comes next finds at `wall`: the highest horizon that was handed out, and what was inherited.
    pub fn bequest(&self, wall: WallTime) -> Barrier {
        self.inherited.and(&Barrier::of(self.horizon, wall, WallTime::default()))
    }

    /// Takes over what earlier owners may have spent.
    pub fn inherit(&mut self, barrier: &Barrier) {
        self.inherited = self.inherited.and(barrier);
    }

    /// Forgets marks of slots that are over.
    pub fn forget(&mut self, wall: WallTime) {
        self.wanted.retain(|_, mark| mark.ends > wall);
    }
}

/// Writes on their way at one time. One: then a damaged page that a valid one follows was reported durable for certain,
/// and marks gather into one page while a disk is slow.
const MAX_IN_FLIGHT: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const SEATS: Seats = Seats { epoch: 1, held: ShardSet::ALL, seated: ShardSet::ALL };

    fn wall(millis: u64) -> WallTime {
        WallTime::from_unix_millis(millis)
    }

    fn never() -> Barrier {
        Barrier::of(wall(0), wall(0), wall(0))
    }

    #[test]
    fn every_write_says_what_earlier_owners_may_have_spent() {
        let mut durability = Durability::new(Barrier::of(wall(12_100), wall(9_000), wall(7)));
        durability.inherit(&Barrier::of(wall(12_400), wall(10_400), wall(5)));
        let mut written = |at| {
            let write = durability.poll(wall(at), Seats { epoch: at, ..SEATS }).expect("the epoch is another one");
            durability.release(write.sequence).count();
            [write.horizon, write.floor, write.closed].map(WallTime::as_unix_millis)
        };
        assert_eq!(written(10_000), [12_400, 10_400, 7]);
        assert_eq!(written(10_600), [12_600, 10_600, 7]);
        assert_eq!(durability.bequest(wall(11_000)), Barrier::of(wall(12_600), wall(11_000), wall(7)));
    }

    #[test]
    fn the_horizon_is_renewed_every_half_second() {
        let mut durability = Durability::new(never());
        let mut due = |at| {
            durability.poll(wall(at), SEATS).map(|write| {
                durability.release(write.sequence).count();
                write.horizon.as_unix_millis()
            })
        };
        assert_eq!(due(10_000), Some(12_000));
        assert_eq!(due(10_499), None);
        assert_eq!(due(10_500), Some(12_500));
    }

    #[test]
    fn marks_gather_while_the_disk_is_slow() {
        let mut durability = Durability::new(never());
        let mark = |spent| Mark { limit: LimitId(1), key: Key::from_bits(5), slot: 1, spent, ends: wall(60_000) };
        durability.want(mark(3));
        assert!(durability.poll(wall(1), SEATS).is_some_and(|write| write.marks == [mark(3)]));
        durability.want(mark(4));
        durability.want(mark(6));
        durability.want(mark(5));
        assert_eq!(durability.poll(wall(900), SEATS), None);
        assert_eq!(durability.release(MarkSequence(1)).count(), 1);
        assert!(durability.poll(wall(900), SEATS).is_some_and(|write| write.marks == [mark(6)]));
    }
}
