//! What may be in flight at one time, shared by the nodes of a region (`region::flight`): here it meets the entries. What
//! other nodes hold of a key counts as used at its owner; at the others the entry's rights are what they hold.
//!
//! Whoever comes to own a key begins nothing before it knows what all others hold. Until then each of them goes on with
//! what it was allotted, to the end of the horizon of whoever allotted it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use portolan_model::{NodeName, Now, Timestamp, WallTime};

use super::{Limits, recalls::Recalls, siblings::Siblings};
use crate::{
    Algorithm, Definition,
    counter::{Allowance, Counter},
    definition::Kind,
    horizon::CLOCK_TOLERANCE,
    key::Key,
    leaf::Leaf,
    message::{Neighbour, Rejected},
    region::{
        Allotment, Hold, Lease, Ranking, Shard, ShardSet, Spot, Survey, Told,
        flight::{
            Beyond, MAX_ITEMS, MAX_TOLD,
            given::{Change, Given},
            held::{Held, Lowering},
            survey,
        },
        ownership,
        sublease::grants::chunk,
    },
    rights::Rights,
    verdict::WaitReason,
};

/// What a node keeps of what is in flight in its region.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) given: Given,
    pub(super) held: Held,
    told: survey::Told,
    /// Whether any limit counts what is in flight.
    counts: bool,
    /// Owned shards of which it is known what the others hold.
    flows: ShardSet,
    /// Nodes off the roster that hold something: until when they may begin anything.
    dropped: BTreeMap<NodeName, WallTime>,
    /// When nodes were told last until when they may.
    leased: BTreeMap<NodeName, Timestamp>,
    pub(super) recalls: Recalls,
}

impl Flight {
    /// For so many keys of other nodes at one time.
    pub fn new(capacity: usize) -> Self {
        Self {
            given: Given::default(),
            held: Held::new(capacity),
            told: survey::Told::default(),
            counts: false,
            flows: ShardSet::default(),
            dropped: BTreeMap::new(),
            leased: BTreeMap::new(),
            recalls: Recalls::default(),
        }
    }

    /// Owned shards of which it is known what the others hold.
    pub fn flows(&self) -> ShardSet {
        self.flows
    }

    /// What this region may have of keys may have become less.
    pub fn follow_shares(&mut self) {
        self.recalls.follow_shares(&self.given);
    }
}

impl Siblings {
    /// Whether something of what is in flight has to be seen to before the next round.
    pub fn flight_is_busy(&self) -> bool {
        let owned = || self.ownership.ranking().owned(self.me());
        !self.flight.held.is_empty() || (self.flight.counts && !owned().without(&self.flight.flows).is_empty())
    }

    /// The other nodes of the roster.
    fn listed(&self) -> impl Iterator<Item = &NodeName> {
        self.ownership.ranking().nodes().iter().filter(|node| *node != self.me())
    }
}

impl Limits {
    /// Takes a message about what is in flight.
    pub(super) fn take_flight(&mut self, from: &NodeName, message: Neighbour, now: Now) -> Result<(), Rejected> {
        match message {
            Neighbour::Told(told) if told.holds.len() > MAX_TOLD => return Err(Rejected::TooLong),
            Neighbour::Holds { holds, .. } if holds.len() > MAX_ITEMS => return Err(Rejected::TooLong),
            Neighbour::Allotments { allotments, .. } if allotments.len() > MAX_ITEMS => return Err(Rejected::TooLong),
            Neighbour::Told(Told { holds, .. }) | Neighbour::Holds { holds, .. }
                if !holds.iter().all(Hold::is_possible) =>
            {
                return Err(Rejected::ImpossibleRow);
            }
            Neighbour::Allotments { allotments, .. } if !allotments.iter().all(Allotment::is_possible) => {
                return Err(Rejected::ImpossibleRow);
            }
            Neighbour::Survey(survey) => self.take_survey(from, survey),
            Neighbour::Told(told) => self.take_told(from, &told),
            Neighbour::Holds { life, holds } => self.take_holds(from, life, &holds, now),
            Neighbour::Allotments { to, by, allotments } if to == self.siblings.life => {
                self.take_allotments(from, by, &allotments, now);
            }
            Neighbour::Lease(lease) => self.take_lease(from, &lease),
            _ => {}
        }
        Ok(())
    }

    /// Takes note of what is in flight of a key that another node owns.
    pub(super) fn note_flight(&mut self, rights: &Rights, key: Key, used: u64, refused: u64, now: Now) {
        let spot = Spot { limit: rights.id, key };
        self.siblings.flight.held.handle_use(spot, used, refused, now.mono);
    }

    /// Follows a new roster. What other nodes hold is nothing to whoever does not own the key any more, and what this node
    /// holds is nothing that a new owner has to be told of itself. Units that are not in flight go back: if the roster had
    /// dropped this node, others have them.
    pub(super) fn turn_flight(&mut self, before: &Ranking, change: &ownership::Change, now: Now) {
        for spot in self.siblings.flight.held.spots() {
            self.lower_flight(spot, 0);
        }
        let limiter = self.limiter();
        let turned = change.lost.or(&change.sought);
        let mut own = Vec::new();
        self.shared.table.for_each(|key, counter| {
            let shard = Shard::of(key);
            let known = limiter.rights(counter.limit()).filter(|_| turned.contains(shard));
            let Some(rights) = known.filter(|rights| rights.terms.kind == Kind::Concurrency) else { return };
            let spot = Spot { limit: rights.id, key };
            counter.shift(0, 0, self.siblings.flight.given.out(spot));
            let units = if change.lost.contains(shard) { counter.used(0) } else { 0 };
            let pending = change.lost.contains(shard).then_some(WaitReason::Owner);
            counter.publish_rights(0, Allowance { amount: units, pending });
            if units > 0 {
                own.push((spot, units));
            }
        });
        let Siblings { flight, ownership, .. } = &mut self.siblings;
        flight.given.retain(|spot| !turned.contains(Shard::of(spot.key)));
        flight.held.retain(|spot| !change.sought.contains(Shard::of(spot.key)));
        own.into_iter().for_each(|(spot, units)| flight.held.insert(spot, units, now.mono));
        flight.held.handle_owner_change();
        flight.flows = flight.flows.and(&ownership.held());
        flight.told.handle_ranking(before, ownership.ranking(), &ownership.held());
    }

    /// Follows new definitions: of a limit that is new here, other nodes may have something in flight.
    pub(super) fn define_flight(&mut self, is_new: bool) {
        let limiter = self.limiter();
        let known = |spot: &Spot| limiter.rights(spot.limit).is_some_and(|it| it.terms.kind == Kind::Concurrency);
        let Siblings { flight, ownership, me, .. } = &mut self.siblings;
        flight.counts = limiter.all_rights().iter().any(|rights| rights.terms.kind == Kind::Concurrency);
        flight.given.retain(known);
        flight.held.retain(known);
        flight.follow_shares();
        if is_new {
            let untold = flight.told.handle_new_limits();
            flight.flows = flight.flows.without(&untold);
            let stopped = untold.and(&ownership.ranking().owned(me));
            stopped.iter().for_each(|shard| self.shared.gates.shard(shard).stop_flow());
            self.open_flow();
        }
    }

    /// What is due: asks what others hold, hands back what is not used, tells what was not answered.
    pub(super) fn run_flight(&mut self, now: Now) {
        for Lowering { spot, units, recalled } in self.siblings.flight.held.idle(now.mono) {
            match recalled {
                true => self.give_up(spot, units),
                false => self.lower_flight(spot, units),
            }
        }
        self.siblings.flight.held.handle_timeout(now.mono);
        self.open_flow();
        self.send_surveys(now.mono);
    }

    /// Lets no more be in flight of a key than is, or than what is kept.
    fn lower_flight(&mut self, spot: Spot, kept: u64) {
        let lower = |counter: &Counter| counter.lower_rights(0, kept, Some(WaitReason::Owner));
        let units = self.shared.table.with(spot.key, lower).unwrap_or(0);
        self.siblings.flight.held.handle_lowered(spot, units);
    }

    /// Queues what owners are to be told.
    pub(super) fn send_holds(&mut self, now: Timestamp) {
        let mut by_owner = BTreeMap::<NodeName, Vec<Hold>>::new();
        let Siblings { flight, ownership, .. } = &mut self.siblings;
        let owner = |spot: &Spot| ownership.ranking().owner(Shard::of(spot.key)).cloned();
        while let Some((owner, hold)) = flight.held.poll(now, owner) {
            by_owner.entry(owner).or_default().push(hold);
        }
        by_owner.remove(self.siblings.me());
        let life = self.siblings.life;
        for (owner, holds) in by_owner {
            for holds in holds.chunks(MAX_ITEMS) {
                self.stats.asks += holds.len() as u64;
                self.tell_neighbour(&owner, Neighbour::Holds { life, holds: holds.to_vec() });
            }
        }
    }

    /// Tells the nodes that hold something until when they may begin requests.
    pub(super) fn send_leases(&mut self) {
        let listed: BTreeSet<NodeName> = self.siblings.listed().cloned().collect();
        for node in self.siblings.flight.given.holders().intersection(&listed) {
            self.send_lease(node);
        }
    }

    /// Lets requests begin of shards of which it is known what other nodes hold: all of the roster have told, and all that
    /// the region may have besides have told, too, or can begin nothing any more.
    pub(super) fn open_flow(&mut self) {
        let Siblings { flight, ownership, open, .. } = &self.siblings;
        let mut candidates = open.and(&ownership.held()).without(&flight.flows);
        if !candidates.is_empty() {
            candidates = candidates.and(&flight.told.of_all(self.siblings.listed()));
        }
        if candidates.is_empty() {
            return;
        }
        let me = self.siblings.me();
        let by_all = flight.told.of_all(ownership.nodes().iter().filter(|node| *node != me));
        let wall = self.wall();
        let lapsed = |shard: &Shard| {
            let spent = self.shared.gates.shard(*shard).barrier().last_spent();
            by_all.contains(*shard) || spent + CLOCK_TOLERANCE <= wall
        };
        let opened: Vec<Shard> = candidates.iter().filter(lapsed).collect();
        if !opened.is_empty() {
            opened.into_iter().for_each(|shard| self.siblings.flight.flows.insert(shard));
            self.raise_flow();
        }
    }

    /// Lets requests begin as far as what is durable reaches.
    pub(super) fn raise_flow(&mut self) {
        if self.fenced {
            return;
        }
        for shard in self.siblings.flight.flows.and(&self.siblings.open).iter() {
            let gate = self.shared.gates.shard(shard);
            if let Some(horizon) = gate.horizon() {
                gate.raise_flow(horizon);
            }
        }
        self.siblings.relief = true;
        self.send_leases();
    }

    fn send_surveys(&mut self, now: Timestamp) {
        let Siblings { flight, ownership, life, .. } = &self.siblings;
        if !flight.counts {
            return;
        }
        let ranking = ownership.ranking();
        let owned = ranking.owned(self.siblings.me());
        let mut nodes: BTreeSet<NodeName> = self.siblings.listed().cloned().collect();
        if !owned.without(&flight.flows).is_empty() {
            nodes.extend(ownership.nodes());
        }
        nodes.remove(self.siblings.me());
        let asker = (ranking.epoch(), *life);
        for (node, survey) in self.siblings.flight.told.poll(&nodes, &owned, asker, now) {
            self.tell_neighbour(&node, Neighbour::Survey(survey));
        }
    }

    /// Answers what is held here. From here on nothing is taken but from the owner that asks: this node is bound to the
    /// epoch already, and to the owner's process by its question.
    fn take_survey(&mut self, from: &NodeName, survey: Survey) {
        let ranking = self.siblings.ownership.ranking();
        if survey.epoch != ranking.epoch() || !survey.shards.without(&ranking.owned(from)).is_empty() {
            return;
        }
        if self.meet(from, survey.life) {
            let (holds, all) = self.siblings.flight.held.page(&survey.shards, survey.after, MAX_TOLD);
            let told = Told { survey, life: self.siblings.life, holds, all };
            self.tell_neighbour(from, Neighbour::Told(told));
        }
    }

    fn take_told(&mut self, from: &NodeName, told: &Told) {
        let Told { survey, life, holds, all } = told;
        let present = (self.siblings.ownership.ranking().epoch(), self.siblings.life);
        let expected = self.siblings.flight.told.expects(from, survey) && (survey.epoch, survey.life) == present;
        if !expected || !self.meet(from, *life) {
            return;
        }
        let limiter = self.limiter();
        for hold in holds.iter().filter(|hold| survey.shards.contains(Shard::of(hold.spot.key))) {
            let (shard, rights) = (Shard::of(hold.spot.key), limiter.rights(hold.spot.limit));
            match rights.filter(|rights| rights.terms.kind == Kind::Concurrency) {
                None => self.siblings.flight.told.handle_unknown(shard),
                // Without room for what is in flight nothing of its shard may begin.
                Some(rights) if !self.book(rights, from, hold) => {
                    self.siblings.flight.told.handle_unbooked(from, shard);
                }
                Some(_) => {}
            }
        }
        let last = holds.last().map(|hold| hold.spot);
        if let Some(next) = self.siblings.flight.told.handle_answer(from, last, *all) {
            self.tell_neighbour(from, Neighbour::Survey(next));
        }
        self.open_flow();
    }

    /// Hears from a process of a node: whether it is the latest. What an earlier one had in flight has ended.
    fn meet(&mut self, node: &NodeName, life: u64) -> bool {
        let Some(ended) = self.siblings.flight.given.meet(node, life) else { return false };
        self.restore(ended);
        true
    }

    fn restore(&self, ended: Vec<(Spot, u64)>) {
        for (spot, units) in ended {
            self.shared.table.with(spot.key, |counter| counter.shift(0, 0, units));
        }
    }

    /// Counts what a node holds as used here; not when there is no entry for it, or more than an entry can count.
    fn book(&mut self, rights: &Rights, from: &NodeName, hold: &Hold) -> bool {
        let key = hold.spot.key;
        let booked = match self.siblings.flight.given.change(from, hold) {
            _ if rights.terms.kind != Kind::Concurrency || !self.shared.owns(key) => false,
            Change::None => true,
            Change::More(units) => self.with_entry(rights, key, |counter| counter.shift(0, units, 0)) == Some(true),
            Change::Less(units) => {
                self.shared.table.with(key, |counter| counter.shift(0, 0, units));
                true
            }
        };
        if booked {
            self.siblings.flight.given.book(from, hold);
            if self.exceeded(rights, key).is_some() {
                self.siblings.flight.recalls.insert(hold.spot);
            }
        }
        booked
    }

    fn take_holds(&mut self, from: &NodeName, life: u64, holds: &[Hold], now: Now) {
        if !self.meet(from, life) {
            return;
        }
        let allotments: Vec<Allotment> = holds.iter().filter_map(|hold| self.allot(from, hold)).collect();
        if allotments.is_empty() {
            return;
        }
        let by = self.siblings.life;
        self.tell_neighbour(from, Neighbour::Allotments { to: life, by, allotments });
        let rests = |at: &Timestamp| now.mono.since(*at) < LEASE_AGAIN;
        if !self.siblings.flight.leased.get(from).is_some_and(rests) && self.siblings.listed().any(|node| node == from)
        {
            self.siblings.flight.leased.insert(from.clone(), now.mono);
            self.send_lease(from);
        }
    }

    /// The answer to one hold; none of a key that is not this node's.
    fn allot(&mut self, from: &NodeName, hold: &Hold) -> Option<Allotment> {
        let limiter = self.limiter();
        let Hold { spot: Spot { limit, key }, waiting, need, .. } = *hold;
        let rights = limiter.rights(limit)?;
        if !self.book(rights, from, hold) {
            return None;
        }
        let gives = self.shared.gates.of(key).flow() > self.wall() && self.siblings.listed().any(|node| node == from);
        if let Some((used, most)) = self.exceeded(rights, key) {
            return Some(self.siblings.flight.given.recall(from, hold, used, most));
        }
        if need == 0 || !gives || !self.siblings.flight.given.knows(from, hold) {
            return Some(self.siblings.flight.given.allot(from, hold, 0, Beyond::More));
        }
        let nodes = self.siblings.ownership.ranking().nodes().len();
        let take = |counter: &Counter| {
            let leaf = Leaf::new(&self.shared, rights, key, counter);
            let view = leaf.view(0)?;
            let (amount, used) = (view.rights.amount, view.used);
            let chunk = chunk(amount.saturating_sub(used), nodes, waiting, need, rights.terms.most_cost);
            let taken = leaf.withdraw(0, chunk, amount);
            if taken < waiting {
                // Demand of the region, be it asked of another node of it.
                counter.refuse(u32::try_from(waiting - taken).unwrap_or(u32::MAX));
            }
            Some((taken, if used + taken < amount { Beyond::More } else { Beyond::Nothing }))
        };
        let (taken, beyond) = self.with_entry(rights, key, take)??;
        self.stats.granted += taken;
        Some(self.siblings.flight.given.allot(from, hold, taken, beyond))
    }

    /// Publishes what was allotted.
    fn take_allotments(&mut self, from: &NodeName, by: u64, allotments: &[Allotment], now: Now) {
        if !self.meet(from, by) {
            return;
        }
        let limiter = self.limiter();
        for allotment in allotments {
            let Spot { limit, key } = allotment.spot;
            let owned = self.siblings.ownership.ranking().owner(Shard::of(key)) == Some(from);
            let Some(rights) = limiter.rights(limit).filter(|_| owned && !self.shared.owns(key)) else { continue };
            let held = &mut self.siblings.flight.held;
            let Some(allowed) = held.handle_allotment(*allotment, now.mono) else { continue };
            let pending = allowed.pending.then_some(WaitReason::Owner);
            let amount = allowed.units;
            let publish = |counter: &Counter| counter.publish_rights(0, Allowance { amount, pending });
            if self.with_entry(rights, key, publish).is_none() {
                self.siblings.flight.held.handle_lowered(allotment.spot, 0);
            }
            self.siblings.relief = true;
        }
    }

    /// Tells a node until when it may begin requests of what it holds: of shards of which it has told all that it does.
    fn send_lease(&mut self, node: &NodeName) {
        let Siblings { flight, ownership, life, .. } = &self.siblings;
        let Some(to) = flight.given.life(node) else { return };
        let mut untils = BTreeMap::<WallTime, ShardSet>::new();
        for shard in flight.flows.and(&flight.told.of(node)).iter() {
            untils.entry(self.shared.gates.shard(shard).flow()).or_default().insert(shard);
        }
        let (epoch, by) = (ownership.ranking().epoch(), *life);
        for (until, shards) in untils {
            self.tell_neighbour(node, Neighbour::Lease(Lease { epoch, to, by, shards, until }));
        }
    }

    fn take_lease(&mut self, from: &NodeName, lease: &Lease) {
        if lease.to != self.siblings.life {
            // It is for an earlier process, which has nothing in flight any more.
            let life = self.siblings.life;
            self.tell_neighbour(from, Neighbour::Holds { life, holds: Vec::new() });
            return;
        }
        let ranking = self.siblings.ownership.ranking();
        let (epoch, owned) = (ranking.epoch(), ranking.owned(from));
        if lease.epoch == epoch && self.meet(from, lease.by) && !self.fenced {
            let shards = lease.shards.and(&owned);
            shards.iter().for_each(|shard| self.shared.gates.shard(shard).raise_flow(lease.until));
            self.siblings.relief = true;
        }
    }

    /// Takes back what nodes hold that the roster dropped, once they can begin nothing any more.
    pub(super) fn forget_dropped(&mut self) {
        let holders = self.siblings.flight.given.holders();
        let listed: BTreeSet<NodeName> = self.siblings.listed().cloned().collect();
        let gone: BTreeSet<NodeName> = holders.difference(&listed).cloned().collect();
        let wall = self.wall();
        let latest = || {
            let gates = self.shared.gates.all().filter(|gate| !gate.is_foreign());
            gates.map(|gate| gate.flow().max(gate.barrier().last_spent())).max().unwrap_or_default()
        };
        let dropped = &mut self.siblings.flight.dropped;
        dropped.retain(|node, _| gone.contains(node));
        let mut ended = Vec::new();
        for node in gone {
            if *dropped.entry(node.clone()).or_insert_with(latest) + CLOCK_TOLERANCE <= wall {
                ended.extend(self.siblings.flight.given.take(&node));
            }
        }
        self.restore(ended);
    }
}

/// Whether a limit counts what is in flight, and is not among those known `before`.
pub(super) fn is_new(definition: &Definition, before: &[Rights]) -> bool {
    let known = before.iter().any(|rights| rights.id == definition.id);
    !known && matches!(definition.algorithm, Algorithm::Concurrency { .. })
}

/// A lease may be lost; with what is allotted it is said again after this time.
const LEASE_AGAIN: Duration = Duration::from_millis(100);
