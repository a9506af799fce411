//! The standby's copy of what an owner may spend. Decides when a write of marks is durable: when it is on the owner's
//! disk and the standby of the same roster epoch has acknowledged it. Never waits: what may be sent again is sent again
//! until it is acknowledged, and the owner's horizon lapses meanwhile.
//!
//! An acknowledgement binds the standby under one epoch only. Once it knows a later one it refuses the owner's updates,
//! and with that fences an owner that does not know the later epoch yet (rights ledger, rule 9.9).

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    time::Duration,
};

use portolan_config::LimitId;
use portolan_model::{NodeName, Timestamp, WallTime};
use serde::{Deserialize, Serialize};

use crate::{
    key::Key,
    marks::{Mark, MarkSequence, MarkWrite, folded},
    region::{
        ownership::highest,
        ranking::Ranking,
        shards::{Shard, ShardSet},
    },
};

/// What an owner tells its standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The roster's epoch as the owner knows it.
    pub epoch: u64,
    /// Tells the owner's processes apart.
    pub life: u64,
    /// The write that the standby must have acknowledged before; 0: this is everything.
    pub after: u64,
    /// The last write that is in it.
    pub through: u64,
    /// Shards of the pair that the owner spends from, given that this is acknowledged.
    pub held: ShardSet,
    /// Slots that begin before this may be spent.
    pub horizon: WallTime,
    /// Slots that end by this are over.
    pub floor: WallTime,
    /// Slots that begin before this give no rights.
    pub closed: WallTime,
    /// Marks raised since `after`, of shards of the pair, all of them: beyond [`MAX_UPDATE`] taken together for every key.
    pub marks: Vec<Mark>,
}

/// What a standby answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The epoch of the update.
    pub epoch: u64,
    /// The owner's process.
    pub life: u64,
    /// The last write it has with all before; 0: it needs everything.
    pub through: u64,
}

/// What became durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// For the keys of these shards.
    pub shards: ShardSet,
    /// The shards that may be spent from, of these or others.
    pub held: ShardSet,
    /// Slots that begin before this may be spent.
    pub horizon: WallTime,
    /// These marks may be spent up to.
    pub marks: Vec<Mark>,
}

/// The owner's side: the copies at its standbys.
#[derive(Debug)]
pub(crate) struct Copies {
    me: NodeName,
    life: u64,
    epoch: u64,
    on_disk: u64,
    /// The newest write that was handed out, as far as every copy shares it.
    newest: Newest,
    /// By standby; `None` for shards without one.
    streams: BTreeMap<Option<NodeName>, Stream>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    number: u64,
    horizon: WallTime,
    floor: WallTime,
    closed: WallTime,
    held: ShardSet,
}

/// What a write says to a standby beside marks.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    held: ShardSet,
    horizon: WallTime,
    closed: WallTime,
}

#[derive(Debug, Default)]
struct Stream {
    shards: ShardSet,
    acknowledged: u64,
    /// The last write that says something to the standby, and what that said beside marks.
    wanted: u64,
    said: Said,
    /// Every live mark, with the write that raised it.
    marks: BTreeMap<(LimitId, Key, u64), (Mark, u64)>,
    /// Handed to the disk and not released.
    pending: VecDeque<(u64, Released)>,
    /// When what was sent last is sent again, and the last write that is in it.
    sent: Option<(Timestamp, u64)>,
}

impl Copies {
    /// Of a process; `life` differs from, and is above, that of every earlier one of this node.
    pub fn new(me: NodeName, life: u64) -> Self {
        Self { me, life, epoch: 0, on_disk: 0, newest: Newest::default(), streams: BTreeMap::new() }
    }

    /// Follows a new roster: every standby is new to its pair and gets `all` that is marked before anything is released.
    /// Of the shards that were spent from before only `kept` still are: the others first have to be taken over again.
    pub fn handle_ranking(&mut self, ranking: &Ranking, kept: ShardSet, all: impl Iterator<Item = Mark>) {
        self.epoch = ranking.epoch();
        self.newest.held = self.newest.held.and(&kept);
        let earlier = std::mem::take(&mut self.streams);
        for shard in ranking.owned(&self.me).iter() {
            self.streams.entry(ranking.standby(shard).cloned()).or_default().shards.insert(shard);
        }
        self.streams.values_mut().for_each(|stream| stream.wanted = self.newest.number);
        all.for_each(|mark| self.keep(mark, self.newest.number));
        // A write waits in every stream it has marks of; here its parts come together again.
        let mut writes = BTreeMap::<u64, Released>::new();
        for (number, released) in earlier.into_values().flat_map(|stream| stream.pending) {
            match writes.entry(number) {
                Entry::Vacant(write) => _ = write.insert(released),
                Entry::Occupied(mut write) => write.get_mut().join(released),
            }
        }
        for (number, released) in writes {
            self.queue(number, released.horizon, released.held.and(&kept), &released.marks);
        }
    }

    /// A write goes to the disk.
    pub fn handle_write(&mut self, write: &MarkWrite) {
        let MarkWrite { sequence: MarkSequence(number), horizon, floor, closed, held, .. } = *write;
        self.newest = Newest { number, horizon, floor, closed, held };
        write.marks.iter().for_each(|mark| self.keep(*mark, number));
        self.queue(number, horizon, held, &write.marks);
    }

    /// The write with this number and all before it are on disk.
    pub fn handle_durable(&mut self, sequence: MarkSequence) {
        self.on_disk = self.on_disk.max(sequence.0);
    }

    /// A standby answered. Answers of another epoch or to another process mean nothing here.
    pub fn handle_acknowledgement(&mut self, from: &NodeName, answer: Acknowledgement) {
        if (answer.epoch, answer.life) != (self.epoch, self.life) || answer.through > self.newest.number {
            return;
        }
        let Some(stream) = self.streams.get_mut(&Some(from.clone())) else { return };
        // Less than before: it started anew and gets everything again. What was released stays released; the bound then
        // rests on this node alone until that is done.
        stream.acknowledged = answer.through;
        stream.sent = None;
    }

    /// The next update to send.
    pub fn poll_transmit(&mut self, now: Timestamp) -> Option<(NodeName, Update)> {
        let (newest, epoch, life) = (self.newest, self.epoch, self.life);
        let due = |stream: &Stream| match stream.sent {
            Some((again, _)) if now < again => false,
            _ => stream.acknowledged < stream.wanted,
        };
        let (standby, stream) = self
            .streams
            .iter_mut()
            .find_map(|(name, stream)| Some((name.as_ref()?, stream)).filter(|(_, s)| due(s)))?;
        stream.sent = Some((now + RESEND_AFTER, newest.number));
        let (marks, closed) = folded(stream.missing(), newest.closed);
        let update = Update {
            epoch,
            life,
            after: stream.acknowledged,
            through: newest.number,
            held: newest.held.and(&stream.shards),
            horizon: newest.horizon,
            floor: newest.floor,
            closed,
            marks,
        };
        Some((standby.clone(), update))
    }

    /// When an update has to be sent again.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let waiting = self.standbys().filter(|(_, stream)| stream.acknowledged < stream.wanted);
        waiting.filter_map(|(_, stream)| stream.sent.map(|(again, _)| again)).min()
    }

    /// What became durable since this was last asked.
    pub fn poll_released(&mut self) -> Option<Released> {
        let on_disk = self.on_disk;
        self.streams.iter_mut().find_map(|(standby, stream)| {
            let durable = if standby.is_some() { on_disk.min(stream.acknowledged) } else { on_disk };
            stream.pending.pop_front_if(|(number, _)| *number <= durable).map(|(_, released)| released)
        })
    }

    /// Forgets marks of slots that are over.
    pub fn forget(&mut self, wall: WallTime) {
        for stream in self.streams.values_mut() {
            stream.marks.retain(|_, (mark, _)| mark.ends > wall);
            // Of a standby that does not answer for days.
            stream.pending.iter_mut().for_each(|(_, released)| released.marks.retain(|mark| mark.ends > wall));
        }
    }

    fn standbys(&self) -> impl Iterator<Item = (&NodeName, &Stream)> {
        self.streams.iter().filter_map(|(name, stream)| Some((name.as_ref()?, stream)))
    }

    fn keep(&mut self, mark: Mark, number: u64) {
        for stream in self.streams.values_mut().filter(|stream| mark.is_of(&stream.shards)) {
            let held = stream.marks.entry((mark.limit, mark.key, mark.slot)).or_insert((mark, number));
            if mark.spent > held.0.spent {
                *held = (mark, number);
            }
        }
    }

    fn queue(&mut self, number: u64, horizon: WallTime, held: ShardSet, marks: &[Mark]) {
        let closed = self.newest.closed;
        for (standby, stream) in &mut self.streams {
            let marks: Vec<Mark> = marks.iter().filter(|mark| mark.is_of(&stream.shards)).copied().collect();
            let said = Said { held: held.and(&stream.shards), horizon, closed };
            if standby.is_some() && marks.is_empty() && stream.wanted > 0 && !stream.said.is_overtaken(&said) {
                continue;
            }
            (stream.wanted, stream.said) = (stream.wanted.max(number), said);
            let released = Released { shards: stream.shards, held, horizon, marks };
            stream.pending.push_back((number, released));
            stream.shorten();
        }
    }
}

impl Said {
    /// Whether the standby has to hear of `next` though there is no mark for it: of a horizon that went on a little it
    /// does not, for every write has another one.
    fn is_overtaken(&self, next: &Self) -> bool {
        let same = (self.held, self.closed) == (next.held, next.closed);
        !same || self.horizon + HORIZON_STEP <= next.horizon
    }
}

impl Released {
    /// Takes in what is released with it.
    fn join(&mut self, later: Self) {
        self.held = later.held;
        self.horizon = self.horizon.max(later.horizon);
        self.marks.extend(later.marks);
    }
}

impl Stream {
    /// A standby that does not answer must not make the queue grow: what was handed out first waits for what comes next.
    fn shorten(&mut self) {
        while self.pending.len() > MAX_PENDING {
            let (Some((_, mut oldest)), Some((number, next))) = (self.pending.pop_front(), self.pending.pop_front())
            else {
                return;
            };
            oldest.join(next);
            if oldest.marks.len() > MAX_UPDATE {
                oldest.marks = highest(oldest.marks.iter().copied(), &self.shards);
            }
            self.pending.push_front((number, oldest));
        }
    }

    /// Marks that the standby may not have.
    fn missing(&self) -> impl Iterator<Item = Mark> + '_ {
        let known = |number: u64| number <= self.acknowledged && self.acknowledged > 0;
        let missing = self.marks.values().filter(move |(_, number)| !known(*number));
        missing.map(|(mark, _)| *mark)
    }
}

/// The standby's side: what it knows of each owner.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    owners: BTreeMap<NodeName, Mirrored>,
    /// By shard: the last epoch under which it was whole here, and its owner then.
    held: BTreeMap<Shard, (u64, NodeName)>,
}

/// What one owner may have spent, under this epoch or earlier: it only grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mirrored {
    epoch: u64,
    life: u64,
    through: u64,
    pub horizon: WallTime,
    pub floor: WallTime,
    pub closed: WallTime,
    /// At most [`MAX_UPDATE`]: beyond it they are taken together for every key.
    marks: BTreeMap<(LimitId, Key, u64), Mark>,
}

impl Mirror {
    /// Takes what `from` may spend, if that is what this node stands by for under `ranking`, and answers. No answer to
    /// an owner of another epoch: a later one is not known here yet, an earlier one is over.
    pub fn handle_update(
        &mut self,
        me: &NodeName,
        from: &NodeName,
        update: Update,
        ranking: &Ranking,
    ) -> Option<Acknowledgement> {
        let pair = ranking.pair(from, me);
        if update.epoch != ranking.epoch() || update.marks.len() > MAX_UPDATE || pair.is_empty() {
            return None;
        }
        let owner = self.owners.entry(from.clone()).or_default();
        let answer = |through| Some(Acknowledgement { epoch: update.epoch, life: update.life, through });
        if (owner.epoch, owner.life) != (update.epoch, update.life) {
            if update.after > 0 {
                return answer(0);
            }
            (owner.epoch, owner.life, owner.through) = (update.epoch, update.life, 0);
        } else if update.after > owner.through {
            return answer(0);
        }
        owner.through = owner.through.max(update.through);
        owner.horizon = owner.horizon.max(update.horizon);
        owner.floor = owner.floor.max(update.floor);
        owner.closed = owner.closed.max(update.closed);
        for mark in update.marks.into_iter().filter(|mark| mark.is_of(&pair)) {
            let known = owner.marks.entry((mark.limit, mark.key, mark.slot)).or_insert(mark);
            known.spent = known.spent.max(mark.spent);
        }
        let (floor, through) = (owner.floor, owner.through);
        owner.marks.retain(|_, mark| mark.ends > floor);
        if owner.marks.len() > MAX_UPDATE {
            let (marks, closed) = folded(std::mem::take(&mut owner.marks).into_values(), owner.closed);
            owner.closed = closed;
            owner.marks = marks.into_iter().map(|mark| ((mark.limit, mark.key, mark.slot), mark)).collect();
        }
        for shard in update.held.and(&pair).iter() {
            self.held.insert(shard, (update.epoch, from.clone()));
        }
        answer(through)
    }

    /// The last epoch under which a shard was whole here; 0 for never.
    pub fn held_at(&self, shard: Shard) -> u64 {
        self.held.get(&shard).map_or(0, |(epoch, _)| *epoch)
    }

    /// The owner of a shard then, and what it may have spent since.
    pub fn owner(&self, shard: Shard) -> Option<(&NodeName, &Mirrored)> {
        let (_, owner) = self.held.get(&shard)?;
        self.owners.get_key_value(owner)
    }

    /// Marks of every owner that this node stood by for.
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.owners.values().flat_map(Mirrored::marks)
    }

    /// Forgets marks of slots that are over, of owners that are gone, too. From then on those are over for whoever goes on
    /// from this copy: by another clock they may not be, and nothing would seem to be spent of them.
    pub fn forget(&mut self, wall: WallTime) {
        for owner in self.owners.values_mut() {
            let known = owner.marks.len();
            owner.marks.retain(|_, mark| mark.ends > wall);
            if owner.marks.len() < known {
                owner.floor = owner.floor.max(wall);
            }
        }
    }
}

impl Mirrored {
    pub fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.marks.values()
    }
}

/// By how much the horizon rises before a standby is told of that alone: a part of what it is ahead.
const HORIZON_STEP: Duration = Duration::from_millis(250);

/// After which time an update is sent again: some round trips within a region.
const RESEND_AFTER: Duration = Duration::from_millis(20);

/// Marks in one update: as many as can be alive, so that a copy is one message. 200 kB when encoded.
pub(crate) const MAX_UPDATE: usize = crate::marks::MAX_MARKS;

/// Writes that wait for one standby apart. The disk takes a few milliseconds for each, so this is what comes together until
/// a standby that died is out of the roster.
const MAX_PENDING: usize = 512;

#[cfg(test)]
mod tests {
    use portolan_config::Roster;

    use super::*;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn ranking(epoch: u64, nodes: &[&str]) -> Ranking {
        Ranking::new(&Roster { epoch, nodes: nodes.iter().map(|name| node(name)).collect() })
    }

    fn wall(millis: u64) -> WallTime {
        WallTime::from_unix_millis(millis)
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::ZERO + Duration::from_millis(millis)
    }

    /// A mark of a key in `shard`.
    fn mark(shard: Shard, spent: u64) -> Mark {
        let key = Key::from_bits((u64::from(shard.0) << 56) | 5);
        Mark { limit: LimitId(1), key, slot: 3, spent, ends: wall(1_000_000) }
    }

    fn write(number: u64, marks: Vec<Mark>) -> MarkWrite {
        let sequence = MarkSequence(number);
        let (horizon, floor, closed) = (wall(number * 100), wall(1), wall(0));
        let all = ShardSet::ALL;
        MarkWrite { sequence, horizon, floor, closed, epoch: 1, held: all, seated: all, marks }
    }

    /// A shard of `a` with standby `b` under the ranking.
    fn shard_of(ranking: &Ranking, owner: &str, standby: Option<&str>) -> Shard {
        let fits = |shard: &Shard| {
            ranking.owner(*shard) == Some(&node(owner)) && ranking.standby(*shard).map(NodeName::as_str) == standby
        };
        Shard::all().find(fits).expect("there is such a shard")
    }

    fn copies(ranking: &Ranking) -> Copies {
        let mut copies = Copies::new(node("a"), 1);
        copies.handle_ranking(ranking, ShardSet::ALL, std::iter::empty());
        copies
    }

    fn released(copies: &mut Copies) -> Vec<(u64, usize)> {
        let next = || copies.poll_released().map(|released| (released.horizon.as_unix_millis(), released.marks.len()));
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn a_write_is_durable_when_the_disk_and_the_standby_of_the_epoch_have_it() {
        let ranking = ranking(1, &["a", "b"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let (mut copies, mut mirror) = (copies(&ranking), Mirror::default());
        copies.handle_write(&write(1, vec![mark(shard, 7)]));
        let (to, update) = copies.poll_transmit(at(0)).expect("an update");
        assert_eq!((to, update.marks.len()), (node("b"), 1));
        assert_eq!(copies.poll_transmit(at(19)), None);
        let (_, again) = copies.poll_transmit(at(20)).expect("it is sent again");
        assert_eq!(again, update);
        copies.handle_durable(MarkSequence(1));
        assert_eq!(released(&mut copies), []);
        let answer = mirror.handle_update(&node("b"), &node("a"), update, &ranking).expect("an answer");
        copies.handle_acknowledgement(&node("b"), answer);
        assert_eq!(released(&mut copies), [(100, 1)]);
        assert!(copies.poll_transmit(at(40)).is_none());
        let (_, mirrored) = mirror.owner(shard).expect("whole");
        assert_eq!((mirror.held_at(shard), mirrored.horizon), (1, wall(100)));
        assert_eq!(mirrored.marks().map(|mark| mark.spent).collect::<Vec<_>>(), [7]);
    }

    #[test]
    fn a_standby_has_every_mark_that_it_acknowledges_however_many_there_are() {
        let ranking = ranking(1, &["a", "b"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let (mut copies, mut mirror) = (copies(&ranking), Mirror::default());
        let of = |key: u64| Mark {
            key: Key::from_bits((u64::from(shard.0) << 56) | key),
            limit: LimitId((key % 3) as u32),
            ..mark(shard, key)
        };
        // A node that took over from others has more than its own.
        let all: Vec<Mark> = (1..=3 * MAX_UPDATE as u64).map(of).collect();
        copies.handle_ranking(&ranking, ShardSet::default(), all.iter().copied());
        copies.handle_write(&write(1, vec![]));
        let (_, update) = copies.poll_transmit(at(0)).expect("an update");
        assert!(update.marks.len() <= MAX_UPDATE);
        let answer = mirror.handle_update(&node("b"), &node("a"), update, &ranking).expect("an answer");
        copies.handle_acknowledgement(&node("b"), answer);
        assert!(copies.poll_transmit(at(1000)).is_none(), "it has them all");
        let known = |mark: &Mark| {
            let covers = |held: &&Mark| held.limit == mark.limit && [mark.key, Key::EVERY].contains(&held.key);
            mirror.marks().filter(covers).map(|held| held.spent).max()
        };
        assert!(all.iter().step_by(97).all(|mark| known(mark) >= Some(mark.spent)));
    }

    #[test]
    fn a_slot_whose_marks_a_standby_has_forgotten_is_over_for_whoever_goes_on_from_it() {
        let ranking = ranking(1, &["a", "b"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let (mut copies, mut mirror) = (copies(&ranking), Mirror::default());
        copies.handle_write(&write(1, vec![mark(shard, 7)]));
        let (_, update) = copies.poll_transmit(at(0)).expect("an update");
        mirror.handle_update(&node("b"), &node("a"), update, &ranking).expect("an answer");
        let mut left = |now| {
            mirror.forget(wall(now));
            let (_, mirrored) = mirror.owner(shard).expect("whole");
            (mirrored.marks().count(), mirrored.floor)
        };
        assert_eq!(left(999_999), (1, wall(1)));
        // Its clock is ahead: by that of others the slot still lasts.
        assert_eq!(left(1_000_400), (0, wall(1_000_400)));
    }

    #[test]
    fn a_node_alone_needs_its_disk_only() {
        let mut copies = copies(&ranking(1, &["a"]));
        copies.handle_write(&write(1, vec![mark(Shard(3), 7)]));
        assert!(copies.poll_transmit(at(0)).is_none());
        assert_eq!(released(&mut copies), []);
        copies.handle_durable(MarkSequence(1));
        assert_eq!(released(&mut copies), [(100, 1)]);
    }

    #[test]
    fn a_standby_that_knows_a_later_epoch_fences_the_owner_of_an_earlier_one() {
        let (old, new) = (ranking(1, &["a", "b"]), ranking(2, &["b"]));
        let (mut copies, mut mirror) = (copies(&old), Mirror::default());
        copies.handle_write(&write(1, vec![]));
        let (_, update) = copies.poll_transmit(at(0)).expect("an update");
        assert_eq!(mirror.handle_update(&node("b"), &node("a"), update.clone(), &new), None);
        // Nor does an owner that is ahead get an answer that would bind this node to what it does not know.
        let early = Update { epoch: 3, ..update };
        assert_eq!(mirror.handle_update(&node("b"), &node("a"), early, &old), None);
        copies.handle_durable(MarkSequence(1));
        assert_eq!(released(&mut copies), []);
    }

    #[test]
    fn a_new_standby_gets_everything_before_anything_more_is_released() {
        let (old, new) = (ranking(1, &["a", "b"]), ranking(2, &["a", "c"]));
        let mut copies = copies(&old);
        let shard = shard_of(&new, "a", Some("c"));
        copies.handle_write(&write(1, vec![mark(shard, 7)]));
        copies.handle_durable(MarkSequence(1));
        copies.handle_ranking(&new, ShardSet::ALL, [mark(shard, 7), mark(shard, 9)].into_iter());
        let late = Acknowledgement { epoch: 1, life: 1, through: 1 };
        copies.handle_acknowledgement(&node("b"), late);
        assert_eq!(released(&mut copies), []);
        let (to, update) = copies.poll_transmit(at(0)).expect("an update");
        assert_eq!((to, update.after, update.marks[0].spent), (node("c"), 0, 9));
        let mut mirror = Mirror::default();
        let answer = mirror.handle_update(&node("c"), &node("a"), update, &new).expect("an answer");
        copies.handle_acknowledgement(&node("c"), answer);
        assert_eq!(released(&mut copies), [(100, 1)]);
    }

    #[test]
    fn a_standby_that_started_anew_is_told_everything_again() {
        let ranking = ranking(1, &["a", "b"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let (mut copies, mut mirror) = (copies(&ranking), Mirror::default());
        for number in 1..=3 {
            copies.handle_write(&write(number, vec![mark(shard, number)]));
            copies.handle_durable(MarkSequence(number));
            if number == 3 {
                mirror = Mirror::default();
            }
            let mut rounds = 0;
            while let Some((_, update)) = copies.poll_transmit(at(number * 100)) {
                let answer = mirror.handle_update(&node("b"), &node("a"), update, &ranking).expect("an answer");
                copies.handle_acknowledgement(&node("b"), answer);
                rounds += 1;
            }
            assert_eq!(rounds, if number == 3 { 2 } else { 1 });
            assert_eq!(released(&mut copies), [(number * 100, 1)]);
        }
        assert_eq!((mirror.held_at(shard), mirror.marks().map(|mark| mark.spent).collect::<Vec<_>>()), (1, vec![3]));
    }

    #[test]
    fn what_a_shard_may_have_spent_is_remembered_when_its_pair_has_changed() {
        let (old, new) = (ranking(1, &["a", "b"]), ranking(2, &["a", "b", "c"]));
        let shard = shard_of(&new, "a", Some("c"));
        let (mut copies, mut mirror) = (copies(&old), Mirror::default());
        copies.handle_write(&write(1, vec![mark(shard, 7)]));
        let (_, update) = copies.poll_transmit(at(0)).expect("an update");
        mirror.handle_update(&node("b"), &node("a"), update, &old).expect("an answer");
        copies.handle_ranking(&new, ShardSet::ALL, std::iter::empty());
        while let Some((to, update)) = copies.poll_transmit(at(0)) {
            if to == node("b") {
                mirror.handle_update(&node("b"), &node("a"), update, &new).expect("an answer");
            }
        }
        assert_eq!((mirror.held_at(shard), mirror.marks().count()), (1, 1));
        let other = shard_of(&new, "a", Some("b"));
        assert_eq!(mirror.held_at(other), 2);
    }

    #[test]
    fn a_shard_that_has_to_be_taken_over_again_is_not_claimed_under_the_new_epoch() {
        let (old, new) = (ranking(1, &["a", "b"]), ranking(3, &["a", "b", "c"]));
        let lost = shard_of(&new, "a", Some("b"));
        let mut copies = copies(&old);
        copies.handle_write(&write(1, vec![]));
        let kept = new.owned(&node("a")).without(&[lost].into_iter().collect());
        copies.handle_ranking(&new, kept, std::iter::empty());
        let mut mirror = Mirror::default();
        while let Some((to, update)) = copies.poll_transmit(at(0)) {
            assert!(!update.held.contains(lost), "it is told as held to {to}");
            if let Some(answer) = mirror.handle_update(&to, &node("a"), update, &new) {
                copies.handle_acknowledgement(&to, answer);
            }
        }
        copies.handle_durable(MarkSequence(1));
        let released: Vec<Released> = std::iter::from_fn(|| copies.poll_released()).collect();
        assert!(!released.is_empty() && released.iter().all(|released| !released.held.contains(lost)));
    }

    #[test]
    fn a_standby_that_is_silent_stops_its_own_shards_alone_and_loses_no_mark() {
        let ranking = ranking(1, &["a", "b", "c"]);
        let [shard, other] = ["b", "c"].map(|standby| shard_of(&ranking, "a", Some(standby)));
        let (mut copies, mut mirrors) = (copies(&ranking), [Mirror::default(), Mirror::default()]);
        let mut hear = |copies: &mut Copies, number: u64, names: &[&str]| {
            while let Some((to, update)) = copies.poll_transmit(at(number * 100)) {
                let Some(name) = names.iter().position(|name| node(name) == to) else { continue };
                let answer = mirrors[name].handle_update(&to, &node("a"), update, &ranking).expect("an answer");
                copies.handle_acknowledgement(&to, answer);
            }
        };
        let last = 4 * MAX_PENDING as u64;
        for number in 1..=last {
            copies.handle_write(&write(number, vec![mark(shard, number), mark(other, number)]));
            copies.handle_durable(MarkSequence(number));
            hear(&mut copies, number, &["c"]);
            let released: Vec<Released> = std::iter::from_fn(|| copies.poll_released()).collect();
            assert!(released.iter().any(|released| released.shards.contains(other)));
            assert!(released.iter().all(|released| !released.shards.contains(shard)));
        }
        let waiting = |copies: &Copies| copies.streams.values().map(|stream| stream.pending.len()).max();
        assert!(waiting(&copies) <= Some(MAX_PENDING));
        hear(&mut copies, last + 1, &["c", "b"]);
        let marks = std::iter::from_fn(|| copies.poll_released()).flat_map(|released| released.marks);
        assert_eq!(
            marks.filter(|mark| mark.is_of(&[shard].into_iter().collect())).map(|mark| mark.spent).max(),
            Some(last)
        );
    }

    #[test]
    fn a_write_without_a_mark_for_a_standby_reaches_it_only_when_the_horizon_went_on() {
        let ranking = ranking(1, &["a", "b", "c"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let mut copies = copies(&ranking);
        let mut told = |number: u64, marks: Vec<Mark>| {
            copies.handle_write(&write(number, marks));
            copies.handle_durable(MarkSequence(number));
            let updates: Vec<_> = std::iter::from_fn(|| copies.poll_transmit(at(number * 100))).collect();
            for (to, update) in &updates {
                let answer = Acknowledgement { epoch: 1, life: 1, through: update.through };
                copies.handle_acknowledgement(to, answer);
            }
            let to: Vec<String> = updates.iter().map(|(to, _)| to.to_string()).collect();
            (to.join(" "), released(&mut copies))
        };
        assert_eq!(told(1, vec![]), ("b c".to_owned(), vec![(100, 0), (100, 0)]));
        assert_eq!(told(2, vec![mark(shard, 7)]), ("b".to_owned(), vec![(200, 1)]));
        assert_eq!(told(3, vec![]), (String::new(), vec![]));
        assert_eq!(told(4, vec![]), ("c".to_owned(), vec![(400, 0)]));
        assert_eq!(told(5, vec![]), ("b".to_owned(), vec![(500, 0)]));
    }

    #[test]
    fn a_lower_mark_that_comes_later_does_not_take_the_place_of_a_higher_one() {
        let ranking = ranking(1, &["a", "b"]);
        let shard = shard_of(&ranking, "a", Some("b"));
        let mut copies = copies(&ranking);
        let every = |spent| Mark { key: Key::EVERY, ..mark(shard, spent) };
        copies.handle_write(&write(1, vec![every(900)]));
        copies.handle_write(&write(2, vec![every(300)]));
        let (_, update) = copies.poll_transmit(at(0)).expect("an update");
        assert_eq!(update.marks.iter().map(|mark| mark.spent).collect::<Vec<_>>(), [900]);
    }

    #[test]
    fn an_owner_that_says_other_marks_each_time_does_not_make_the_copy_of_them_grow() {
        let ranking = ranking(1, &["a", "b"]);
        let held = ranking.pair(&node("a"), &node("b"));
        let mut mirror = Mirror::default();
        let marks: Vec<Mark> = (1..=4 * MAX_UPDATE as u64)
            .map(|at| Mark { key: Key::from_bits((at << 48) | at), ..mark(Shard(0), at % 100) })
            .filter(|mark| mark.is_of(&held))
            .collect();
        assert!(marks.len() > MAX_UPDATE, "{} marks", marks.len());
        for (through, marks) in (1..).zip(marks.chunks(500)) {
            let (after, marks) = (through - 1, marks.to_vec());
            let (horizon, floor, closed) = (wall(100), wall(1), wall(0));
            let update = Update { epoch: 1, life: 1, after, through, held, horizon, floor, closed, marks };
            assert!(mirror.handle_update(&node("b"), &node("a"), update, &ranking).is_some());
            assert!(mirror.marks().count() <= MAX_UPDATE, "{} marks are kept", mirror.marks().count());
        }
        let covers = |mark: &Mark| {
            let mut same = mirror.marks().filter(|held| [mark.key, Key::EVERY].contains(&held.key));
            same.any(|held| held.spent >= mark.spent)
        };
        assert!(marks.iter().all(covers));
    }
}
