//! Which shards this node owns, and whether it may spend from them: it follows the region's rosters, asks the others for
//! what they knew when it takes a shard over, and tells them the same. Spends nothing itself; what a shard comes with is
//! handed to the caller, who makes it durable before the shard is opened.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use portolan_config::{LimitId, Roster};
use portolan_model::{NodeName, Now, Timestamp, WallTime};
use serde::{Deserialize, Serialize};

use crate::{
    horizon::Barrier,
    key::Key,
    marks::{Mark, folded},
    region::{
        ranking::Ranking,
        shards::{SHARDS, Shard, ShardSet},
        standby::{Acknowledgement, Mirror, Update},
        takeover::{EVER, Verdict, Word, judge},
    },
};

/// A new owner asks what others know of shards; the answer binds who gives it to the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The roster's epoch under which the asker owns them.
    pub epoch: u64,
    /// The asker's process.
    pub life: u64,
    /// The shards.
    pub shards: ShardSet,
}

/// What a node knows of shards that another one asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The epoch it is bound to.
    pub epoch: u64,
    /// The process that asked: what was known then may be less than what that one spent.
    pub life: u64,
    /// Shards that it held, by the epoch it held them under last.
    pub held: Vec<(u64, ShardSet)>,
    /// Shards that it never held.
    pub never: ShardSet,
    /// Shards that it may have held in a process whose memory is lost, by the epoch under which it had a seat of theirs and
    /// every earlier epoch was over.
    pub forgot: Vec<(u64, ShardSet)>,
    /// The last epoch under which such a process may have held any, those included of which none of these tells.
    pub last: u64,
    /// What was spent of those it held.
    pub legacy: Legacy,
}

/// What may have been spent of some shards.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legacy {
    /// Slots that begin before this may have been spent.
    pub horizon: WallTime,
    /// Slots that end by this are over.
    pub floor: WallTime,
    /// Slots that begin before this give no rights.
    pub closed: WallTime,
    /// Highest marks; in an answer, where they are too many for one message, taken together for every key.
    pub marks: Vec<Mark>,
}

/// What this node knows of its earlier processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Past {
    /// There was none.
    None,
    /// Its marks were found: under this epoch it spent from these shards, and had a seat of those.
    Known { epoch: u64, held: ShardSet, seated: ShardSet },
    /// Its marks were lost.
    Lost,
}

impl Past {
    /// The last epoch under which they held anything: nothing is spent or stood by for before the epoch is on disk, but for
    /// what was held under the one before.
    const fn last(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Known { epoch, .. } => epoch,
            Self::Lost => EVER,
        }
    }
}

/// Shards that this node may open once what they come with is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub shards: ShardSet,
    pub barrier: Barrier,
    pub marks: Vec<Mark>,
}

/// What a new roster changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Shards that are not this node's any more.
    pub lost: ShardSet,
    /// Shards that are this node's and must be taken over.
    pub sought: ShardSet,
}

#[derive(Debug)]
pub(crate) struct Ownership {
    me: NodeName,
    life: u64,
    /// Every other node that the region may have.
    others: BTreeSet<NodeName>,
    ranking: Ranking,
    /// By epoch: that ranking and earlier ones.
    rankings: BTreeMap<u64, Ranking>,
    past: Past,
    /// The epoch under which this node owned a shard last, and spent from it or could have; 0 for never.
    held_at: Box<[u64; SHARDS]>,
    /// The last epoch under which this node was a shard's owner or standby and knew that every earlier epoch was over: of
    /// each of them somebody is bound by a later one without whom nobody can spend under it. 0 for none.
    seated_at: Box<[u64; SHARDS]>,
    /// Those of which that is the present epoch.
    seated: ShardSet,
    /// Owned under the present epoch, and taken over.
    held: ShardSet,
    /// The last epoch of a write on disk.
    durable: u64,
    sought: ShardSet,
    sought_since: Timestamp,
    ask_at: Timestamp,
    answers: BTreeMap<NodeName, Answer>,
    mirror: Mirror,
    outbox: VecDeque<(NodeName, Question)>,
}

impl Ownership {
    /// Of a process; `life` tells it from every other one of this node.
    pub fn new(me: NodeName, life: u64, others: impl IntoIterator<Item = NodeName>, past: Past) -> Self {
        let mut held_at = Box::new([0; SHARDS]);
        let mut seated_at = held_at.clone();
        if let Past::Known { epoch, held, seated } = past {
            held.iter().for_each(|shard| held_at[shard.index()] = epoch);
            held.or(&seated).iter().for_each(|shard| seated_at[shard.index()] = epoch);
        }
        let mut ownership = Self {
            others: others.into_iter().filter(|other| *other != me).take(MAX_NODES).collect(),
            me,
            life,
            ranking: Ranking::new(&Roster::default()),
            rankings: BTreeMap::new(),
            past,
            held_at,
            seated_at,
            seated: ShardSet::default(),
            held: ShardSet::default(),
            durable: 0,
            sought: ShardSet::default(),
            sought_since: Timestamp::ZERO,
            ask_at: Timestamp::ZERO,
            answers: BTreeMap::new(),
            mirror: Mirror::default(),
            outbox: VecDeque::new(),
        };
        ownership.count_seats();
        ownership
    }

    pub fn ranking(&self) -> &Ranking {
        &self.ranking
    }

    /// Shards that this node owns and has taken over.
    pub fn held(&self) -> ShardSet {
        self.held
    }

    /// Shards to take over.
    pub fn sought(&self) -> ShardSet {
        self.sought
    }

    /// Whether there are shards to take over.
    pub fn seeks(&self) -> bool {
        !self.sought.is_empty()
    }

    /// While there are, the other nodes that have not said what they know of them.
    pub fn silent(&self) -> Vec<NodeName> {
        let silent = |node: &NodeName| self.seeks() && *node != self.me && !self.answers.contains_key(node);
        self.nodes().into_iter().filter(silent).collect()
    }

    /// Whether this node shares the region's limits, and has taken over all that is its own.
    pub fn is_settled(&self) -> bool {
        self.ranking.nodes().contains(&self.me) && self.sought.is_empty()
    }

    /// Learns of a roster of an epoch that this node does not follow any more, or has not followed: who may have spent then.
    pub fn learn(&mut self, roster: &Roster) {
        self.rankings.entry(roster.epoch).or_insert_with(|| Ranking::new(roster));
        if self.rankings.len() > MAX_RANKINGS {
            self.rankings.pop_first();
        }
    }

    /// Follows a new roster. `None`: it is not newer. This node is bound by the roster from here on.
    pub fn handle_roster(&mut self, roster: &Roster, now: Now) -> Option<Change> {
        if roster.epoch <= self.ranking.epoch() {
            return None;
        }
        let next = roster.epoch == self.ranking.epoch() + 1;
        let before = std::mem::replace(&mut self.ranking, Ranking::new(roster));
        let owned = self.ranking.owned(&self.me);
        // Of an epoch that was passed over another node may have been the owner.
        let kept = if next { self.held.and(&owned) } else { ShardSet::default() };
        let change = Change { lost: before.owned(&self.me).without(&owned), sought: owned.without(&kept) };
        self.learn(roster);
        self.held = kept;
        kept.iter().for_each(|shard| self.held_at[shard.index()] = roster.epoch);
        self.keep_seats();
        self.sought = change.sought;
        (self.sought_since, self.ask_at) = (now.mono, now.mono);
        self.answers.clear();
        self.outbox.clear();
        Some(change)
    }

    /// Being bound by this epoch, a node that had a seat under the one before ends that one, too.
    fn keep_seats(&mut self) {
        let epoch = self.ranking.epoch();
        let me = Some(&self.me);
        for shard in Shard::all() {
            let seated_at = &mut self.seated_at[shard.index()];
            let has_seat = self.ranking.owner(shard) == me || self.ranking.standby(shard) == me;
            if *seated_at > 0 && *seated_at + 1 == epoch && has_seat {
                *seated_at = epoch;
            }
        }
        self.count_seats();
    }

    fn count_seats(&mut self) {
        let epoch = self.ranking.epoch();
        self.seated = Shard::all().filter(|shard| self.seated_at[shard.index()] == epoch).collect();
    }

    /// Shards that this node has a seat of under the present epoch, and of which every earlier one is over.
    pub fn seated(&self) -> ShardSet {
        self.seated
    }

    /// The answer to a question, given what this node's own processes spent; none while another epoch is in force here.
    pub fn answer(&self, question: &Question, own: &Legacy) -> Option<Answer> {
        if question.epoch != self.ranking.epoch() {
            return None;
        }
        let mut held = BTreeMap::<u64, ShardSet>::new();
        let mut forgot = BTreeMap::<u64, ShardSet>::new();
        let mut never = ShardSet::default();
        for shard in question.shards.iter() {
            match self.word(shard) {
                Word::Held(epoch) => held.entry(epoch).or_default().insert(shard),
                Word::Never => never.insert(shard),
                Word::Forgot { seat, .. } => forgot.entry(seat).or_default().insert(shard),
                Word::Unknown(_) => {}
            }
        }
        let of = held.values().fold(ShardSet::default(), |all, shards| all.or(shards));
        let mut legacy = self.bequeath(&of, own);
        (legacy.marks, legacy.closed) = folded(legacy.marks.into_iter(), legacy.closed);
        let [held, forgot] = [held, forgot].map(|by_epoch| by_epoch.into_iter().collect());
        let Question { epoch, life, .. } = *question;
        Some(Answer { epoch, life, held, never, forgot, last: self.past.last(), legacy })
    }

    /// Takes an answer of a node of the region.
    pub fn handle_answer(&mut self, from: &NodeName, answer: Answer) {
        let known = self.others.contains(from) || self.ranking.nodes().contains(from);
        let asked = (answer.epoch, answer.life) == (self.ranking.epoch(), self.life);
        if asked && known && answer.legacy.marks.len() <= MAX_LEGACY {
            self.answers.insert(from.clone(), answer);
        }
    }

    /// A write under this epoch is on this node's disk.
    pub fn handle_durable(&mut self, epoch: u64) {
        self.durable = self.durable.max(epoch);
    }

    /// Takes an owner's update, if this node stands by for it. Not before its own disk knows the epoch: a process that comes
    /// after it would say that it owned the shards last, and nobody stood by since.
    pub fn handle_update(&mut self, from: &NodeName, update: Update) -> Option<Acknowledgement> {
        if self.durable < self.ranking.epoch() {
            return None;
        }
        let epoch = self.ranking.epoch();
        let is_news = |shard: &Shard| self.seated_at[shard.index()] < epoch;
        let news: ShardSet = update.held.iter().filter(is_news).collect();
        let answer = self.mirror.handle_update(&self.me, from, update, &self.ranking)?;
        if !news.is_empty() {
            // Its owner has taken them over, so every earlier epoch is over.
            let of_pair = news.and(&self.ranking.pair(from, &self.me));
            of_pair.iter().for_each(|shard| self.seated_at[shard.index()] = epoch);
            self.count_seats();
        }
        Some(answer)
    }

    /// Asks again when it is time.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.sought.is_empty() || now.mono < self.ask_at {
            return;
        }
        self.ask_at = now.mono + ASK_AGAIN;
        let question = Question { epoch: self.ranking.epoch(), life: self.life, shards: self.sought };
        self.outbox = self.silent().into_iter().map(|node| (node, question.clone())).collect();
    }

    pub fn poll_transmit(&mut self) -> Option<(NodeName, Question)> {
        self.outbox.pop_front()
    }

    /// Forgets marks that mean nothing any more.
    pub fn forget(&mut self, wall: WallTime) {
        self.mirror.forget(wall);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) again.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        (!self.sought.is_empty()).then_some(self.ask_at)
    }

    /// The next shards that can be taken over. `own`: what this node's own processes spent.
    pub fn poll_taken(&mut self, own: &Legacy, now: Now) -> Option<Taken> {
        let nodes: Vec<NodeName> = self.nodes().into_iter().collect();
        let patient = now.mono.since(self.sought_since) < PATIENCE && self.answers.len() + 1 < nodes.len();
        let mut groups = BTreeMap::<Source, ShardSet>::new();
        for shard in self.sought.iter() {
            let source = match judge(shard, self.ranking.epoch(), &self.rankings, &nodes, &self.words(shard)) {
                Verdict::Fresh => Source::Nothing,
                Verdict::From(node) => Source::Node(node),
                // Somebody may come back who knows.
                Verdict::Lost if !patient => Source::Lost,
                Verdict::Lost | Verdict::Wait => continue,
            };
            groups.entry(source).or_default().insert(shard);
        }
        let (source, shards) = groups.pop_first()?;
        let known = self.bequeath(&shards, own);
        let mut legacy = match &source {
            Source::Nothing => Legacy::default(),
            Source::Lost => Legacy::from(Barrier::of_lost(now)),
            Source::Node(node) if *node == self.me => known.clone(),
            Source::Node(node) => self.answers.get(node).map(|answer| answer.legacy.clone()).unwrap_or_default(),
        };
        // Marks only rise, so what anybody else knows of a key costs nothing, and one that is missing might cost a slot.
        let others = self.answers.values().map(|answer| &answer.legacy).chain([&known]);
        let others = others.flat_map(|other| &other.marks).filter(|mark| mark.key != Key::EVERY);
        legacy.marks = highest(others.chain(&legacy.marks).copied(), &shards);
        self.sought = self.sought.without(&shards);
        self.held = self.held.or(&shards);
        for shard in shards.iter() {
            self.held_at[shard.index()] = self.ranking.epoch();
            self.seated_at[shard.index()] = self.ranking.epoch();
        }
        self.count_seats();
        let barrier = Barrier::of(legacy.horizon, legacy.floor, legacy.closed);
        Some(Taken { shards, barrier, marks: legacy.marks })
    }

    /// What this node knows of shards, as owner and as standby.
    fn bequeath(&self, shards: &ShardSet, own: &Legacy) -> Legacy {
        let mut legacy = Legacy::default();
        let mut marks = Vec::new();
        let mut add = |horizon: WallTime, floor: WallTime, closed: WallTime| {
            legacy.horizon = legacy.horizon.max(horizon);
            legacy.floor = legacy.floor.max(floor);
            legacy.closed = legacy.closed.max(closed);
        };
        let held = shards.iter().any(|shard| self.held_at[shard.index()] > 0);
        if held {
            add(own.horizon, own.floor, own.closed);
        }
        let owners: BTreeMap<_, _> = shards.iter().filter_map(|shard| self.mirror.owner(shard)).collect();
        for mirrored in owners.values() {
            add(mirrored.horizon, mirrored.floor, mirrored.closed);
        }
        // A mark of every key is of those who held the shards; of a key it is whoever's.
        let of_key = |mark: &&Mark| mark.key != Key::EVERY;
        marks.extend(own.marks.iter().filter(|mark| held || of_key(mark)));
        marks.extend(owners.values().flat_map(|mirrored| mirrored.marks()));
        marks.extend(self.mirror.marks().filter(of_key));
        legacy.marks = highest(marks.into_iter().copied(), shards);
        legacy
    }

    /// What this node says of its past with a shard.
    fn word(&self, shard: Shard) -> Word {
        let held_at = self.held_at[shard.index()].max(self.mirror.held_at(shard));
        match (held_at, self.seated_at[shard.index()], self.past) {
            (0, 0, Past::None) => Word::Never,
            (0, 0, past) => Word::Unknown(past.last()),
            (0, seat, past) => Word::Forgot { last: past.last(), seat },
            (epoch, ..) => Word::Held(epoch),
        }
    }

    fn words(&self, shard: Shard) -> BTreeMap<NodeName, Word> {
        let said = self.answers.iter().map(|(node, answer)| {
            let last = |by_epoch: &[(u64, ShardSet)]| {
                by_epoch.iter().filter(|(_, shards)| shards.contains(shard)).map(|(epoch, _)| *epoch).max()
            };
            let word = match (last(&answer.held), last(&answer.forgot)) {
                (Some(epoch), _) => Word::Held(epoch),
                (None, _) if answer.never.contains(shard) => Word::Never,
                (None, Some(seat)) => Word::Forgot { last: answer.last, seat },
                (None, None) => Word::Unknown(answer.last),
            };
            (node.clone(), word)
        });
        said.chain([(self.me.clone(), self.word(shard))]).collect()
    }

    /// Every node that the region may have, this one included.
    pub fn nodes(&self) -> BTreeSet<NodeName> {
        self.others.iter().chain(self.ranking.nodes()).chain([&self.me]).cloned().collect()
    }
}

/// Where the state of shards comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    Nothing,
    Node(NodeName),
    Lost,
}

impl From<Barrier> for Legacy {
    fn from(barrier: Barrier) -> Self {
        let [horizon, floor, closed] = barrier.instants();
        Self { horizon, floor, closed, marks: Vec::new() }
    }
}

/// Of these marks the highest of every key and slot of some shards.
pub(crate) fn highest(marks: impl Iterator<Item = Mark>, shards: &ShardSet) -> Vec<Mark> {
    let mut highest = BTreeMap::<(LimitId, Key, u64), Mark>::new();
    for mark in marks.filter(|mark| mark.is_of(shards)) {
        let known = highest.entry((mark.limit, mark.key, mark.slot)).or_insert(mark);
        known.spent = known.spent.max(mark.spent);
    }
    highest.into_values().collect()
}

/// Nodes of one region.
const MAX_NODES: usize = 1000;

/// Rankings that are kept.
const MAX_RANKINGS: usize = 16;

/// Marks in one answer: a node's own and those it stands by for.
const MAX_LEGACY: usize = 4 * crate::marks::MAX_MARKS;

/// After which time a node that has not answered is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// How long a shard waits for somebody who remembers, before its owner gives up what was not spent: a process that ends is
/// started again by then, and a month's quota is worth the wait.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod laws;

#[cfg(test)]
mod tests {
    use super::*;

    /// What one stream between nodes carries.
    const LONGEST_MESSAGE: usize = 256 << 10;

    fn node(name: &str) -> NodeName {
        NodeName::new(name).expect("a name")
    }

    fn roster(epoch: u64, nodes: &[&str]) -> Roster {
        Roster { epoch, nodes: nodes.iter().map(|name| node(name)).collect() }
    }

    fn at(millis: u64) -> Now {
        let wall = WallTime::from_unix_millis(1_000_000 + millis);
        Now { mono: Timestamp::ZERO + Duration::from_millis(millis), wall }
    }

    fn ownership(me: &str, past: Past) -> Ownership {
        Ownership::new(node(me), 1, ["a", "b", "c"].map(node), past)
    }

    fn taken(ownership: &mut Ownership, own: &Legacy, now: Now) -> usize {
        std::iter::from_fn(|| ownership.poll_taken(own, now)).map(|taken| taken.shards.len()).sum()
    }

    /// Lets `asker` ask `others` and hear their answers.
    fn ask(asker: &mut Ownership, others: &mut [&mut Ownership], own: &Legacy, now: Now) {
        asker.handle_timeout(now);
        while let Some((to, question)) = asker.poll_transmit() {
            for other in others.iter_mut().filter(|other| other.me == to) {
                if let Some(answer) = other.answer(&question, own) {
                    asker.handle_answer(&to, answer);
                }
            }
        }
    }

    #[test]
    fn the_first_node_of_a_region_owns_everything_at_once() {
        let mut a = ownership("a", Past::None);
        assert_eq!(a.handle_roster(&roster(1, &["a"]), at(0)).map(|change| change.sought.len()), Some(SHARDS));
        assert_eq!(taken(&mut a, &Legacy::default(), at(0)), SHARDS);
        assert!(a.is_settled());
        assert_eq!(a.handle_roster(&roster(1, &["a"]), at(1)), None);
    }

    #[test]
    fn a_node_that_joins_takes_its_shards_from_their_owner_who_stops_first() {
        let (mut a, mut b) = (ownership("a", Past::None), ownership("b", Past::None));
        let own = Legacy { horizon: WallTime::from_unix_millis(1_002_000), ..Legacy::default() };
        a.handle_roster(&roster(1, &["a"]), at(0));
        taken(&mut a, &Legacy::default(), at(0));
        let both = roster(2, &["a", "b"]);
        let sought = b.handle_roster(&both, at(10)).expect("it is newer").sought;
        ask(&mut b, &mut [&mut a], &own, at(10));
        assert_eq!(taken(&mut b, &Legacy::default(), at(10)), 0);
        let change = a.handle_roster(&both, at(20)).expect("it is newer");
        assert_eq!((change.lost, change.sought), (sought, ShardSet::default()));
        assert!(a.is_settled());
        ask(&mut b, &mut [&mut a], &own, at(60));
        let taken = b.poll_taken(&Legacy::default(), at(60)).expect("all at once");
        assert_eq!((taken.shards, taken.barrier), (sought, Barrier::of(own.horizon, own.floor, own.closed)));
    }

    #[test]
    fn an_answer_fits_a_message_however_many_marks_there_are() {
        let (mut a, mut b) = (ownership("a", Past::None), ownership("b", Past::None));
        a.handle_roster(&roster(1, &["a"]), at(0));
        taken(&mut a, &Legacy::default(), at(0));
        let mark = |limit: u32, key| {
            let (limit, ends) = (LimitId(limit), WallTime::from_unix_millis(9_000_000));
            Mark { limit, key, slot: 3, spent: key.bits() % 1000, ends }
        };
        // Keys spread over all shards, and marks of every key, which are of each of the shards.
        let keys =
            (1..3 * crate::marks::MAX_MARKS as u64).map(|at| mark(1, Key::from_bits((at << 56) | (at << 8) | 1)));
        let every = (2..300).map(|limit| mark(limit, Key::EVERY));
        let own = Legacy { marks: keys.chain(every).collect(), ..Legacy::default() };
        for ownership in [&mut a, &mut b] {
            ownership.handle_roster(&roster(2, &["a", "b"]), at(10));
        }
        b.handle_timeout(at(10));
        let (_, question) = b.poll_transmit().expect("it asks");
        let answer = a.answer(&question, &own).expect("an answer");
        let bytes = portolan_model::codec::encode(&answer).expect("encodes").len();
        assert!(bytes < LONGEST_MESSAGE, "{bytes} bytes for {} marks", answer.legacy.marks.len());
        b.handle_answer(&node("a"), answer);
        let taken = b.poll_taken(&Legacy::default(), at(10)).expect("all at once");
        let covers = |mark: &&Mark| {
            let same = |held: &&Mark| held.limit == mark.limit && [mark.key, Key::EVERY].contains(&held.key);
            taken.marks.iter().filter(same).any(|held| held.spent >= mark.spent)
        };
        let of_taken = own.marks.iter().filter(|mark| mark.is_of(&taken.shards));
        assert!(of_taken.step_by(97).all(|mark| covers(&mark)));
    }

    #[test]
    fn a_process_that_starts_again_under_its_epoch_goes_on_from_its_marks() {
        let mut a = ownership("a", Past::Known { epoch: 4, held: ShardSet::ALL, seated: ShardSet::ALL });
        a.handle_roster(&roster(4, &["a", "b"]), at(0));
        let owned = a.ranking().owned(&node("a")).len();
        assert_eq!(taken(&mut a, &Legacy::default(), at(0)), owned);
    }

    #[test]
    fn a_process_that_was_passed_over_goes_on_from_what_its_heir_spent() {
        let (mut a, mut b) = (
            ownership("a", Past::Known { epoch: 4, held: ShardSet::ALL, seated: ShardSet::ALL }),
            ownership("b", Past::None),
        );
        b.handle_roster(&roster(4, &["a", "b"]), at(0));
        b.handle_roster(&roster(5, &["b"]), at(0));
        b.held = ShardSet::ALL;
        b.held_at.fill(5);
        for ownership in [&mut a, &mut b] {
            ownership.handle_roster(&roster(6, &["a", "b"]), at(3000));
        }
        assert_eq!(taken(&mut a, &Legacy::default(), at(3000)), 0);
        let spent = Legacy { horizon: WallTime::from_unix_millis(5), ..Legacy::default() };
        ask(&mut a, &mut [&mut b], &spent, at(3000));
        let taken = a.poll_taken(&Legacy::default(), at(3000)).expect("b has answered");
        assert_eq!(taken.barrier.instants()[0], spent.horizon);
    }

    #[test]
    fn a_process_that_starts_later_asks_nobody_who_cannot_have_spent_in_between() {
        let sought = |learned: &[Roster]| {
            let mut a = ownership("a", Past::Known { epoch: 4, held: ShardSet::ALL, seated: ShardSet::ALL });
            learned.iter().for_each(|roster| a.learn(roster));
            let change = a.handle_roster(&roster(6, &["a", "b"]), at(0)).expect("it is newer");
            (taken(&mut a, &Legacy::default(), at(0)), change.sought.len())
        };
        let (taken, all) = sought(&[]);
        assert_eq!(taken, 0, "the roster of epoch 5 may have named anybody");
        assert_eq!(sought(&[roster(5, &["a", "c"])]), (all, all), "it owned its shards, or stood by for them");
        assert_eq!(sought(&[roster(5, &["b", "c"])]), (0, all));
    }

    #[test]
    fn a_lost_past_opens_later_slots_after_everybody_was_asked() {
        let mut alone = Ownership::new(node("a"), 1, [], Past::Lost);
        alone.handle_roster(&roster(2, &["a"]), at(0));
        assert_eq!(taken(&mut alone, &Legacy::default(), at(0)), SHARDS);
        let mut a = ownership("a", Past::Lost);
        a.handle_roster(&roster(2, &["a"]), at(0));
        assert_eq!(taken(&mut a, &Legacy::default(), at(29_999)), 0);
        assert_eq!(
            taken(&mut a, &Legacy::default(), at(30_000)),
            0,
            "an epoch is not known here, and nobody has spoken"
        );
    }

    #[test]
    fn a_standby_acknowledges_nothing_before_its_own_disk_knows_the_epoch() {
        let mut b = ownership("b", Past::Known { epoch: 4, held: ShardSet::ALL, seated: ShardSet::ALL });
        b.handle_roster(&roster(5, &["a", "b"]), at(0));
        let wall = WallTime::default();
        let held = b.ranking().pair(&node("a"), &node("b"));
        let update = Update {
            epoch: 5,
            life: 1,
            after: 0,
            through: 1,
            held,
            horizon: wall,
            floor: wall,
            closed: wall,
            marks: Vec::new(),
        };
        assert_eq!(b.handle_update(&node("a"), update.clone()), None);
        b.handle_durable(4);
        assert_eq!(b.handle_update(&node("a"), update.clone()), None);
        b.handle_durable(5);
        assert!(b.handle_update(&node("a"), update).is_some());
    }
}
