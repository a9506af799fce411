//! What follows from the roster of this region: shards come and go. A shard that goes is shut before anything is told of
//! it; one that comes is opened when what it came with is durable here and at its standby.

use std::collections::BTreeMap;

use portolan_config::{LimitId, Roster};
use portolan_model::{Now, WallTime};

use super::{
    Event, Limits,
    exchange::{ECHO_ROUNDS, ECHOED_WITHIN},
};
use crate::{
    Cell,
    counter::{Allowance, Counter},
    definition::Kind,
    horizon::{Barrier, HORIZON_LEAD},
    key::Key,
    marks::Mark,
    region::{
        Legacy, Shard, ShardSet,
        ownership::{Taken, highest},
    },
    rights::Rights,
    verdict::WaitReason,
};

impl Limits {
    /// At first every shard is another node's.
    pub(super) fn give_all_away(&self) {
        Shard::all().for_each(|shard| self.shared.gates.shard(shard).give_away());
    }

    pub(super) fn follow_roster(&mut self, roster: &Roster, now: Now) {
        let before = self.siblings.ownership.ranking().clone();
        let Some(change) = self.siblings.ownership.handle_roster(roster, now) else { return };
        if !self.fenced {
            for shard in change.lost.iter() {
                self.shared.gates.shard(shard).give_away();
            }
            for shard in change.sought.iter() {
                self.shared.gates.shard(shard).shut();
            }
        }
        self.siblings.open = self.siblings.open.and(&self.siblings.ownership.held());
        self.cut_rights(&change.lost);
        self.turn_flight(&before, &change, now);
        let lost = |key: Key| change.lost.contains(Shard::of(key));
        self.watched.retain(|(_, key), _| !lost(*key));
        self.untold.retain(|place| !lost(place.key));
        let Legacy { marks, .. } = self.legacy();
        let ranking = self.siblings.ownership.ranking().clone();
        let kept = self.siblings.ownership.held();
        self.siblings.copies.handle_ranking(&ranking, kept, marks.into_iter());
        let table = &self.shared.table;
        let used = |cell: &Cell| table.with(cell.key, |counter| counter.used(cell.slot)).unwrap_or(0);
        self.siblings.requests.handle_lost(lost, used);
        self.siblings.requests.handle_owner_change();
        self.events.push(Event::Roster { epoch: roster.epoch, owned: ranking.owned(self.siblings.me()).len() });
        self.take_over(now);
    }

    /// Takes over every shard whose past is known.
    pub(super) fn take_over(&mut self, now: Now) {
        if !self.siblings.ownership.seeks() {
            return;
        }
        let own = self.legacy();
        // What nobody remembers was spent by clocks that were near the time that is kept here, not near one that has leapt.
        let now = Now { wall: self.wall(), ..now };
        while let Some(taken) = self.siblings.ownership.poll_taken(&own, now) {
            self.open_taken(taken);
        }
    }

    fn open_taken(&mut self, Taken { shards, barrier, marks }: Taken) {
        // Slots that are over here are for good: their marks are not kept, and a node whose clock is behind may ask for them.
        let [horizon, floor, closed] = barrier.instants();
        let barrier = Barrier::of(horizon, floor.max(self.wall()), closed);
        if !self.fenced {
            shards.iter().for_each(|shard| self.shared.gates.shard(shard).take(&barrier));
        }
        self.durability.inherit(&barrier);
        self.echo_rounds.fill(ECHO_ROUNDS);
        self.echoed_at = self.last.mono + ECHOED_WITHIN;
        self.next_digest = self.last.mono;
        let wall = self.wall();
        let mut by_limit = BTreeMap::<LimitId, Vec<Mark>>::new();
        for mark in marks.into_iter().filter(|mark| mark.ends > wall) {
            self.durability.want(mark);
            by_limit.entry(mark.limit).or_default().push(mark);
        }
        let limiter = self.limiter();
        for (limit, marks) in by_limit {
            match limiter.rights(limit) {
                Some(rights) => self.inherit_marks(rights, marks),
                None => {
                    let found = self.recovered.entry(limit).or_default();
                    *found = highest(found.drain(..).chain(marks), &ShardSet::ALL);
                }
            }
        }
        self.raise_entries(&shards);
    }

    /// Takes back what was published to entries of shards that are another node's from now on. A request that is being
    /// charged meanwhile may pass: it is under the horizon and the marks that the new owner goes on from.
    fn cut_rights(&self, shards: &ShardSet) {
        if shards.is_empty() {
            return;
        }
        let limiter = self.limiter();
        let wall = self.wall();
        let cut = |rights: &Rights, counter: &Counter| {
            let current = rights.terms.slot(wall);
            for slot in [current, current + 1] {
                counter.publish_rights(slot, Allowance { amount: 0, pending: Some(WaitReason::Owner) });
                counter.publish_others(slot, 0);
            }
        };
        self.shared.table.for_each(|key, counter| {
            let rights = limiter.rights(counter.limit()).filter(|_| shards.contains(Shard::of(key)));
            if let Some(rights) = rights.filter(|rights| rights.terms.kind != Kind::Concurrency) {
                cut(rights, counter);
            }
        });
    }

    /// Raises entries that this node has already, from chunks it was granted, to what they would begin with now: what it
    /// counted is not all that was spent of them.
    fn raise_entries(&self, shards: &ShardSet) {
        let limiter = self.limiter();
        let wall = self.wall();
        self.shared.table.for_each(|key, counter| {
            if let Some(rights) = limiter.rights(counter.limit()).filter(|_| shards.contains(Shard::of(key))) {
                counter.raise_to(rights.beginning(&self.shared, key, wall), wall);
            }
        });
    }

    /// The epoch of the roster that this node follows, once every shard that it gives this node is open here. Whoever had
    /// one of them before can spend nothing more than its horizon and its marks reach.
    pub fn taken_over(&self) -> Option<u64> {
        let ownership = &self.siblings.ownership;
        let settled = ownership.is_settled() && ownership.held().without(&self.siblings.open).is_empty();
        (settled && !self.fenced).then(|| ownership.ranking().epoch())
    }

    /// Lets what is durable here and at the standbys be spent.
    pub(super) fn release(&mut self) {
        let limiter = self.limiter();
        let mut more = false;
        while let Some(released) = self.siblings.copies.poll_released() {
            more = true;
            let open = released.shards.and(&released.held).and(&self.siblings.ownership.held());
            if !self.fenced {
                // Beyond its own lead reaches what was inherited alone, and nothing that it allots has to last as long.
                let horizon = released.horizon.min(self.wall() + HORIZON_LEAD);
                open.iter().for_each(|shard| self.shared.gates.shard(shard).raise_horizon(horizon));
            }
            self.siblings.open = self.siblings.open.or(&open);
            for mark in released.marks {
                if mark.key == Key::EVERY {
                    self.release_for_every_key(mark, &released.shards);
                } else if let Some(rights) = limiter.rights(mark.limit) {
                    self.release_mark(rights, mark);
                }
            }
            self.siblings.relief = true;
        }
        self.open_flow();
        if more {
            self.raise_flow();
        }
        if self.taken_over().is_some() && !self.shared.set_active(true) {
            self.events.push(Event::Active);
        }
        self.answer_waiting();
    }

    /// A mark of every key counts when the standbys of all shards have it.
    fn release_for_every_key(&mut self, mark: Mark, shards: &ShardSet) {
        let owned = self.siblings.ownership.ranking().owned(self.siblings.me());
        let waiting = &mut self.siblings.for_every_key;
        let at = waiting.iter().position(|(known, _)| *known == mark).unwrap_or_else(|| {
            waiting.push((mark, owned));
            waiting.len() - 1
        });
        waiting[at].1 = waiting[at].1.without(shards);
        if waiting[at].1.and(&owned).is_empty() {
            waiting.swap_remove(at);
            if let Some(rights) = self.limiter.rights(mark.limit) {
                rights.live.raise_allowance(mark.slot, mark.spent);
            }
        }
    }

    /// Whether a slot that begins at `begin` may be granted or lent of here.
    pub(super) fn may_give(&self, rights: &Rights, key: Key, slot: u64, begin: WallTime) -> bool {
        let gate = self.shared.gates.of(key);
        gate.barrier().opens(&rights.terms, slot, begin) && gate.horizon().is_some_and(|horizon| begin < horizon)
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::Timestamp;

    use super::*;
    use crate::{LimitsConfig, Recovery};

    fn at(millis: u64) -> Now {
        Now { mono: Timestamp::ZERO, wall: WallTime::from_unix_millis(millis) }
    }

    #[test]
    fn a_slot_that_is_over_here_is_not_opened_with_a_shard_for_nodes_whose_clock_is_behind() {
        let mut limits = Limits::new(LimitsConfig::alone(), Recovery::FirstStart, at(10_400));
        limits.handle_definitions(&[crate::Definition::of_rate(1, "200/10s")], at(10_400));
        let wall = WallTime::from_unix_millis;
        // Its owner was in the slot before when it wrote last.
        let barrier = Barrier::of(wall(11_900), wall(9_900), wall(0));
        let spent = Mark { limit: LimitId(1), key: Key::from_bits(5), slot: 0, spent: 200, ends: wall(10_000) };
        limits.open_taken(Taken { shards: ShardSet::ALL, barrier, marks: vec![spent] });
        let rights = limits.limiter().rights(LimitId(1)).expect("it is defined").terms.clone();
        let gate = limits.shared.gates.of(spent.key);
        let opens = |slot| gate.barrier().opens(&rights, slot, rights.begin(slot));
        assert_eq!([opens(0), opens(1)], [false, true]);
    }

    #[test]
    fn what_a_shard_came_with_is_bequeathed_before_anything_is_written() {
        let mut limits = Limits::new(LimitsConfig::alone(), Recovery::FirstStart, at(10_000));
        // The clock of whoever had it is ahead, and the limit of the mark is not known here yet.
        let wall = WallTime::from_unix_millis;
        let barrier = Barrier::of(wall(12_400), wall(10_400), wall(9_000));
        let mark = |spent| Mark { limit: LimitId(9), key: Key::from_bits(5), slot: 0, spent, ends: wall(60_000) };
        for spent in [700, 300] {
            limits.open_taken(Taken { shards: ShardSet::ALL, barrier, marks: vec![mark(spent)] });
        }
        assert_eq!(limits.legacy(), Legacy { marks: vec![mark(700)], ..Legacy::from(barrier) });
    }
}
