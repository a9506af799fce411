//! The nodes that share this region's limits with this one, and those of the other regions: who owns what, and what goes
//! between them. Decides whom a message is for. See `region` for the rules; here they meet the accounts.

use std::collections::{BTreeMap, BTreeSet};

use portolan_config::Roster;
use portolan_model::{NodeName, Now, RegionId, Timestamp, WallTime};

use super::{Limits, flight::Flight, marking::Marked};
use crate::{
    durability::Seats,
    marks::Recovery,
    message::{Message, Neighbour, Rejected},
    outbox::Destination,
    region::{
        Legacy, Ranking, ShardSet,
        ownership::{Ownership, Past},
        standby::Copies,
        sublease::{MAX_ITEMS, grants::Grants, requests::Requests},
    },
};

/// Who a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The region.
    pub region: RegionId,
    /// Its node; `None`: any that is heard.
    pub node: Option<NodeName>,
}

/// What a node keeps to share its region's limits.
#[derive(Debug)]
pub(crate) struct Siblings {
    pub(super) me: NodeName,
    pub life: u64,
    pub ownership: Ownership,
    pub copies: Copies,
    pub grants: Grants,
    pub requests: Requests,
    pub(super) flight: Flight,
    /// Of the other regions, by position in the scope.
    pub rankings: BTreeMap<usize, Ranking>,
    /// Marks that this node's own earlier process left.
    pub past: Vec<crate::Mark>,
    /// Shards whose held write is durable.
    pub open: ShardSet,
    /// Marks of all keys of a limit, with the shards they are not durable for yet.
    pub for_every_key: Vec<(crate::marks::Mark, ShardSet)>,
    /// Something came that a waiting request may use.
    pub relief: bool,
}

impl Siblings {
    pub fn new(me: NodeName, others: Vec<NodeName>, life: u64, recovery: Recovery, capacity: usize) -> Self {
        let (past, known) = match recovery {
            Recovery::FirstStart => (Vec::new(), Past::None),
            Recovery::Lost => (Vec::new(), Past::Lost),
            Recovery::Marks(marks) => {
                let known = Past::Known { epoch: marks.epoch, held: marks.held, seated: marks.seated };
                (marks.marks, known)
            }
        };
        Self {
            ownership: Ownership::new(me.clone(), life, others, known),
            copies: Copies::new(me.clone(), life),
            grants: Grants::new(life),
            requests: Requests::new(capacity),
            flight: Flight::new(capacity),
            me,
            life,
            rankings: BTreeMap::new(),
            past,
            open: ShardSet::default(),
            for_every_key: Vec::new(),
            relief: false,
        }
    }

    /// This node.
    pub fn me(&self) -> &NodeName {
        &self.me
    }

    /// The shards that this node spends from, and those it has a seat of.
    pub fn seats(&self) -> Seats {
        let (held, seated) = (self.ownership.held(), self.ownership.seated());
        Seats { epoch: self.ownership.ranking().epoch(), held, seated }
    }

    /// When to look again, having looked at `last`: what chunks were used for is told to their owners as it happens.
    pub fn poll_timeout(&self, last: Timestamp) -> Option<Timestamp> {
        let busy = !self.requests.is_empty() || self.flight_is_busy();
        let requests = busy.then_some(last + super::subleasing::LOOK);
        [self.copies.poll_timeout(), self.ownership.poll_timeout(), requests].into_iter().flatten().min()
    }
}

impl Limits {
    /// Follows the rosters of all regions. A region that is not named stays as it was.
    pub fn handle_rosters(&mut self, rosters: &BTreeMap<RegionId, Roster>, now: Now) {
        self.observe_clock(now);
        for (at, region) in self.regions.iter().enumerate().filter(|(at, _)| *at != self.me) {
            let Some(roster) = rosters.get(region) else { continue };
            let known = self.siblings.rankings.get(&at).map_or(0, Ranking::epoch);
            if roster.epoch > known {
                self.siblings.rankings.insert(at, Ranking::new(roster));
                // What its new owners have to know: digests find it.
                self.next_digest = now.mono;
            }
        }
        if let Some(roster) = rosters.get(&self.regions[self.me]) {
            self.follow_roster(roster, now);
            self.budget.divide(self.regions.len() - 1, roster.nodes.len());
            self.repairs.divide(1, roster.nodes.len());
        }
    }

    /// Follows rosters of this region one after the other that came at once, oldest first. Of an epoch that is passed over
    /// nobody knows whose a shard was, and everybody has to be asked. A process that has followed none yet has nothing to
    /// lose by them: it learns of those before its first.
    pub fn handle_turns(&mut self, rosters: &[Roster], now: Now) {
        self.observe_clock(now);
        for roster in rosters {
            match self.siblings.ownership.ranking().epoch() {
                0 => self.siblings.ownership.learn(roster),
                epoch if roster.epoch < epoch => self.siblings.ownership.learn(roster),
                _ => self.follow_roster(roster, now),
            }
        }
        self.take_over(now);
    }

    /// Whether something came since this was last asked that a waiting request may use.
    pub fn take_relief(&mut self) -> bool {
        std::mem::take(&mut self.siblings.relief)
    }

    /// The shards that each node of a region owns, if that is known.
    pub fn ranking(&self, region: &RegionId) -> Option<&Ranking> {
        match self.regions.binary_search(region) {
            Ok(at) if at == self.me => Some(self.siblings.ownership.ranking()),
            Ok(at) => self.siblings.rankings.get(&at),
            Err(_) => None,
        }
    }

    pub(super) fn take_neighbour(&mut self, from: &NodeName, message: Neighbour, now: Now) -> Result<(), Rejected> {
        match message {
            Neighbour::Update(update) => {
                if let Some(answer) = self.siblings.ownership.handle_update(from, update) {
                    self.tell_neighbour(from, Neighbour::Acknowledgement(answer));
                }
            }
            Neighbour::Acknowledgement(answer) => {
                self.siblings.copies.handle_acknowledgement(from, answer);
                self.release();
            }
            Neighbour::Question(question) => {
                let own = self.legacy();
                if let Some(answer) = self.siblings.ownership.answer(&question, &own) {
                    self.tell_neighbour(from, Neighbour::Answer(answer));
                }
            }
            Neighbour::Answer(answer) => {
                self.siblings.ownership.handle_answer(from, answer);
                self.take_over(now);
            }
            Neighbour::Asks { asks, .. } if asks.len() > MAX_ITEMS => return Err(Rejected::TooLong),
            Neighbour::Grants { grants, .. } if grants.len() > MAX_ITEMS => return Err(Rejected::TooLong),
            Neighbour::Asks { life, asks } => {
                self.note_late(&asks, now);
                self.take_asks(from, life, &asks);
            }
            Neighbour::Grants { to, by, grants } if to == self.siblings.life => {
                self.take_grants(from, by, &grants, now)
            }
            Neighbour::Grants { .. } => {}
            of_flight => return self.take_flight(from, of_flight, now),
        }
        Ok(())
    }

    /// What is due between the nodes of this region.
    pub(super) fn run_siblings(&mut self, now: Now) {
        self.siblings.ownership.handle_timeout(now);
        self.take_over(now);
        self.hand_back(now);
        self.siblings.requests.handle_timeout(now.mono);
        self.run_flight(now);
    }

    /// Queues what the parts want sent.
    pub(super) fn poll_siblings(&mut self) {
        let now = self.last.mono;
        while let Some((to, question)) = self.siblings.ownership.poll_transmit() {
            self.tell_neighbour(&to, Neighbour::Question(question));
        }
        while let Some((to, update)) = self.siblings.copies.poll_transmit(now) {
            self.tell_neighbour(&to, Neighbour::Update(update));
        }
        self.send_asks(now);
        self.send_holds(now);
    }

    pub(super) fn tell_neighbour(&mut self, to: &NodeName, message: Neighbour) {
        let to = Destination { region: self.me, node: Some(to.clone()) };
        self.outbox.push(to, Message::Neighbour(message));
    }

    /// Whom this node tells in a round that it lives. Every node of a region with few. Of one with many its counterparts
    /// and, in the next round, their neighbours: so every node hears every region in every round, from two nodes in turn,
    /// and the loss of one of these is not that of a region. And whoever lent since it was last told that this came.
    pub(super) fn listeners(&self, region: usize) -> Vec<Destination> {
        let to = |node: Option<NodeName>| Destination { region, node };
        let nodes = self.siblings.rankings.get(&region).map_or(&[][..], Ranking::nodes);
        match nodes.len() {
            0 => vec![to(None)],
            1..=FEW => nodes.iter().cloned().map(|node| to(Some(node))).collect(),
            many => {
                let own = self.siblings.ownership.ranking().nodes();
                let rank = own.iter().position(|node| *node == self.siblings.me).unwrap_or(0);
                let ranks = many.min(own.len().max(1));
                let turn = usize::from(self.heartbeats.is_multiple_of(2));
                let is_mate = |at: &usize| (at + turn) % ranks == rank % ranks;
                let mates = (0..many).filter(is_mate).map(|at| to(Some(nodes[at].clone())));
                let lenders = self.owed.iter().filter(|from| from.region == region).cloned();
                let mut all: Vec<_> = mates.chain(lenders).collect();
                all.sort();
                all.dedup();
                all
            }
        }
    }

    /// The nodes of another region that own a shard which this node owns here.
    pub(super) fn counterparts(&self, region: usize) -> Vec<Destination> {
        let Some(theirs) = self.siblings.rankings.get(&region).filter(|ranking| !ranking.nodes().is_empty()) else {
            return vec![Destination { region, node: None }];
        };
        let held = self.siblings.ownership.ranking().owned(&self.siblings.me);
        let owners: BTreeSet<&NodeName> = held.iter().filter_map(|shard| theirs.owner(shard)).collect();
        owners.into_iter().map(|node| Destination { region, node: Some(node.clone()) }).collect()
    }

    /// What this node's processes may have spent, and whoever its shards were taken over from: this node is the last to
    /// say so from the moment it holds them, marks of limits that it does not know yet included.
    pub(super) fn legacy(&self) -> Legacy {
        let marked = self.marked.iter().map(|(&(limit, key, slot), &Marked { spent, ends, .. })| crate::Mark {
            limit,
            key,
            slot,
            spent,
            ends,
        });
        let wall = self.wall();
        let unknown = self.recovered.values().flatten();
        let live = self.siblings.past.iter().chain(unknown).copied().filter(|mark| mark.ends > wall);
        Legacy { marks: live.chain(marked).collect(), ..Legacy::from(self.durability.bequest(wall)) }
    }

    pub(super) fn forget_siblings(&mut self, wall: WallTime) {
        self.siblings.copies.forget(wall);
        self.siblings.ownership.forget(wall);
        let limiter = self.limiter();
        let live = |cell: &crate::Cell| {
            limiter.rights(cell.limit).is_some_and(|rights| cell.slot + 1 >= rights.terms.slot(wall))
        };
        self.siblings.grants.retain(live);
        self.siblings.requests.retain(live);
        self.siblings.for_every_key.retain(|(mark, _)| mark.ends > wall);
    }
}

/// Nodes of a region that each hear every node of another region.
const FEW: usize = 4;
