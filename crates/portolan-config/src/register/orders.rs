//! What commands do to the register, and which commands a node should propose for it. The proposals are pure functions of
//! the state: a driver asks, and proposes what it gets.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{Name, NodeName, RegionId, WallTime};

use super::{
    Fence, LimitRegister, Registered,
    binding::Numbers,
    demand,
    lease::{Leases, taken_from},
    split::{Split, Step, canonical},
};
use crate::{Applied, Change, Command, Intent, Limit, Refusal, RegionMap, Roster, Shares, Snapshot};

impl LimitRegister {
    /// Takes over the limits of `new`.
    pub(crate) fn rebind(
        &mut self,
        old: &Snapshot,
        new: &Snapshot,
        regions: &RegionMap,
        leases: &mut Leases,
        at: WallTime,
    ) {
        let mut limits = BTreeMap::new();
        let mut counted = BTreeSet::new();
        for (name, limit) in &new.limits {
            let before = old.limits.get(name).zip(self.limits.get(name));
            // What was lent of a slot, and what regions had of it beside, does not fit another lender's part.
            let known = before.filter(|(was, _)| old.lender_of(was) == new.lender_of(limit));
            let known = known.map(|(was, registered)| (&**was, &registered.numbers));
            let numbers = Numbers::follow(known, limit, &mut self.next);
            let split = before.map(|(_, registered)| registered.split.clone()).unwrap_or_default();
            let split = if before.is_some_and(|(_, registered)| registered.numbers.own.id == numbers.own.id) {
                counted.insert(name.clone());
                split
            } else {
                let wanted = self.wanted(limit, &split, regions, leases);
                Split::new(wanted, split.demanded, split.weighed)
            };
            limits.insert(name.clone(), Registered { numbers, split });
        }
        self.limits = limits;
        if leases.follow(new, regions.ids(), |name| counted.contains(name), self.changes + 1, at) {
            self.changes += 1;
        }
        self.want_anew(new, regions, leases);
    }

    /// The split that a limit should have.
    fn wanted(&self, limit: &Limit, split: &Split, regions: &RegionMap, leases: &Leases) -> Vec<u32> {
        let mut weights = match &limit.shares {
            Shares::Equal => Vec::new(),
            Shares::Demand => split.demanded.clone(),
            Shares::Weights(weights) => {
                regions.ids().iter().map(|region| weights.get(region).copied().unwrap_or(0)).collect()
            }
        };
        let holds = |region: &RegionId| !self.fences.contains_key(region) && !leases.has_lapsed(&limit.name, region);
        if regions.ids().iter().all(holds) {
            return canonical(weights);
        }
        if weights.is_empty() {
            weights = vec![1; regions.ids().len()];
        }
        let held = weights.iter().zip(regions.ids()).map(|(weight, region)| if holds(region) { *weight } else { 0 });
        let held: Vec<u32> = held.collect();
        // Where those that are gone have it all, there is nobody to give it to.
        canonical(if held.iter().all(|weight| *weight == 0) { weights } else { held })
    }

    fn want_anew(&mut self, snapshot: &Snapshot, regions: &RegionMap, leases: &Leases) {
        let wanted: Vec<(Name, Vec<u32>)> = self
            .limits
            .iter()
            .filter_map(|(name, it)| {
                Some((name.clone(), self.wanted(snapshot.limits.get(name)?, &it.split, regions, leases)))
            })
            .collect();
        for (name, weights) in wanted {
            if let Some(registered) = self.limits.get_mut(&name) {
                registered.split.want(weights);
            }
        }
    }

    /// Takes every step that splits and leases can take at `at`. All changes that begin together have one number.
    pub(crate) fn advance(
        &mut self,
        snapshot: &Snapshot,
        regions: &RegionMap,
        leases: &mut Leases,
        rosters: &BTreeMap<RegionId, Roster>,
        at: WallTime,
    ) {
        leases.bind(snapshot, self.heeding(rosters), at);
        let number = self.changes + 1;
        let mut begins = false;
        for (name, mut registered) in std::mem::take(&mut self.limits) {
            if let Some(limit) = snapshot.limits.get(&name) {
                let seen = self.holders(&name, leases, rosters).map(|node| self.seen.get(node).copied().unwrap_or(0));
                let seen_by_all = seen.min().unwrap_or(self.changes);
                let gone: BTreeMap<&RegionId, WallTime> = leases.gone(&name, self.heeding(rosters)).collect();
                let from = |region| gone.get(region).map(|until| taken_from(limit, *until));
                let gone: Vec<Option<WallTime>> = regions.ids().iter().map(from).collect();
                let step = Step { at, number, seen_by_all, gone: &gone };
                begins |= registered.split.advance(&limit.algorithm, step);
            }
            self.limits.insert(name, registered);
        }
        if begins {
            self.changes = number;
        }
    }
}

impl Intent {
    /// What `node` should propose now that it knows this state: that it has seen every change of splits. `None` when it
    /// has said so, is no member, or nothing waits for it.
    pub fn acknowledgement(&self, node: &NodeName, at: WallTime) -> Option<Command> {
        let seen = self.limits.seen.get(node).copied().unwrap_or(0);
        let waits = |pending: super::PendingShares<'_>| pending.missing.contains(&node);
        let waiting = self.leases.is_news(seen) || self.limits.pending(&self.leases, &self.rosters).any(waits);
        (waiting && self.members.contains_key(node))
            .then(|| Change::Acknowledge { node: node.clone(), change: self.limits.changes }.at(at))
    }

    /// What `node` should propose once it holds all shards that the roster of epoch `held` gives it: that its region's
    /// other nodes can spend no more. `None` when it has said so or nobody waits for it.
    pub fn takeover(&self, node: &NodeName, held: u64, at: WallTime) -> Option<Command> {
        let region = &self.members.get(node)?.region;
        let listed = self.rosters.get(region).is_some_and(|roster| roster.epoch == held && roster.contains(node));
        let waits = listed && self.limits.absent.waits_for(region, node);
        waits.then(|| Change::TakeOver { node: node.clone(), epoch: held }.at(at))
    }

    /// What the leader should propose: splits by the demand that it knows, units per region since it was weighed last,
    /// of the limits that ask for it; and steps that nothing else would take.
    pub fn weighings(&self, demand: &BTreeMap<Name, BTreeMap<RegionId, u64>>, at: WallTime) -> Vec<Command> {
        let by_demand = demand.iter().filter(|(limit, demand)| {
            let asks = self.snapshot.limits.get(*limit).is_some_and(|limit| limit.shares == Shares::Demand);
            let split = self.limits.limits.get(*limit).map(|registered| &registered.split);
            let ordered = self.in_order(demand);
            asks && split.is_some_and(|split| demand::is_worth_it(&split.demanded, &ordered, split.weighed, at))
        });
        let weigh =
            by_demand.map(|(limit, demand)| Change::Weigh { limit: limit.clone(), demand: demand.clone() }.at(at));
        let due = self.limits.limits.iter().any(|(name, registered)| {
            self.snapshot.limits.get(name).is_some_and(|limit| registered.split.is_due(&limit.algorithm, at))
        });
        weigh.chain(due.then_some(Change::Settle.at(at))).collect()
    }

    /// What the leader should propose of leases: those of the regions that are `present`, in reach of it and well, are
    /// renewed in time.
    pub fn renewal(&self, present: &BTreeSet<RegionId>, at: WallTime) -> Option<Command> {
        let due = self.leases.is_due(&self.snapshot, present, self.limits.heeding(&self.rosters), at);
        due.then(|| Change::Renew { regions: present.clone() }.at(at))
    }

    fn in_order(&self, demand: &BTreeMap<RegionId, u64>) -> Vec<u64> {
        self.regions().ids().iter().map(|region| demand.get(region).copied().unwrap_or(0)).collect()
    }

    pub(crate) fn renew(&mut self, present: &BTreeSet<RegionId>, at: WallTime) -> Result<Applied, Refusal> {
        let heeding = self.limits.heeding(&self.rosters);
        if self.leases.renew(&self.snapshot, present, heeding, at) {
            self.limits.want_anew(&self.snapshot, &self.regions, &self.leases);
        }
        Ok(Applied::Renewed)
    }

    pub(crate) fn acknowledge(&mut self, node: &NodeName, change: u64) -> Result<Applied, Refusal> {
        if !self.members.contains_key(node) {
            return Err(Refusal::UnknownNode { node: node.clone() });
        }
        let seen = self.limits.seen.entry(node.clone()).or_default();
        *seen = change.min(self.limits.changes).max(*seen);
        Ok(Applied::Acknowledged)
    }

    pub(crate) fn take_over(&mut self, node: &NodeName, epoch: u64) -> Result<Applied, Refusal> {
        let unknown = || Refusal::UnknownNode { node: node.clone() };
        let region = &self.members.get(node).ok_or_else(unknown)?.region;
        let roster = self.rosters.get(region).filter(|roster| roster.contains(node)).ok_or_else(unknown)?;
        if roster.epoch != epoch {
            let region = region.clone();
            return Err(Refusal::StaleRoster { region, expected: epoch, current: roster.epoch });
        }
        self.limits.absent.settle(region, node, roster);
        Ok(Applied::TakenOver)
    }

    pub(crate) fn weigh(
        &mut self,
        limit: &Name,
        demand: &BTreeMap<RegionId, u64>,
        at: WallTime,
    ) -> Result<Applied, Refusal> {
        let ordered = self.in_order(demand);
        let asks = self.snapshot.limits.get(limit).filter(|limit| limit.shares == Shares::Demand);
        let registered = asks.and_then(|_| self.limits.limits.get_mut(limit));
        let registered = registered.ok_or_else(|| Refusal::NotByDemand { limit: limit.clone() })?;
        // Two leaders may both have thought it was time.
        if demand::is_worth_it(&registered.split.demanded, &ordered, registered.split.weighed, at) {
            registered.split.demanded = demand::weights(&ordered);
            registered.split.weighed = Some(at);
            self.limits.want_anew(&self.snapshot, &self.regions, &self.leases);
        }
        Ok(Applied::Weighed)
    }

    pub(crate) fn fence(&mut self, region: &RegionId, reason: &str, author: &str, at: WallTime) -> Result<(), Refusal> {
        if let Some(Fence { author, .. }) = self.limits.fences.get(region) {
            return Err(Refusal::AlreadyFenced { region: region.clone(), author: author.clone() });
        }
        let holds = |other: &RegionId| other != region && !self.limits.fences.contains_key(other);
        if !self.regions().ids().iter().any(holds) {
            return Err(Refusal::LastHolder { region: region.clone() });
        }
        self.limits.fences.insert(region.clone(), Fence { reason: reason.to_owned(), author: author.to_owned(), at });
        self.limits.want_anew(&self.snapshot, &self.regions, &self.leases);
        Ok(())
    }

    pub(crate) fn unfence(&mut self, region: &RegionId) -> Result<(), Refusal> {
        if self.limits.fences.remove(region).is_none() {
            return Err(Refusal::NotFenced { region: region.clone() });
        }
        self.limits.want_anew(&self.snapshot, &self.regions, &self.leases);
        Ok(())
    }
}
