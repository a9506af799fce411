//! What commands do to the register, and which commands a node should propose for it. The proposals are pure functions of
//! the state: a driver asks, and proposes what it gets.

use std::{collections::BTreeMap, sync::Arc};

use portolan_model::{Name, NodeName, RegionId, WallTime};

use super::{
    Fence, LimitRegister, Registered,
    binding::Numbers,
    demand,
    split::{Split, canonical},
};
use crate::{Applied, Command, Intent, Limit, Refusal, RegionMap, Roster, Shares, Snapshot};

impl LimitRegister {
    /// Takes over the limits of `new`.
    pub(crate) fn rebind(&mut self, old: &Snapshot, new: &Snapshot, regions: &RegionMap) {
        let mut limits = BTreeMap::new();
        for (name, limit) in &new.limits {
            let before = old.limits.get(name).zip(self.limits.get(name));
            let known = before.map(|(was, registered)| (&**was, &registered.numbers));
            let numbers = Numbers::follow(known, limit, &mut self.next);
            let split = before.map(|(_, registered)| registered.split.clone()).unwrap_or_default();
            let wanted = self.wanted(limit, &split, regions);
            let split = if before.is_some_and(|(_, registered)| registered.numbers.own.id == numbers.own.id) {
                let mut split = split;
                split.want(wanted);
                split
            } else {
                Split::new(wanted, split.demanded, split.weighed)
            };
            limits.insert(name.clone(), Registered { numbers, split });
        }
        self.limits = limits;
    }

    /// The split that a limit should have.
    fn wanted(&self, limit: &Limit, split: &Split, regions: &RegionMap) -> Vec<u32> {
        let mut weights = match &limit.shares {
            Shares::Equal => Vec::new(),
            Shares::Demand => split.demanded.clone(),
            Shares::Weights(weights) => {
                regions.ids().iter().map(|region| weights.get(region).copied().unwrap_or(0)).collect()
            }
        };
        if self.fences.is_empty() {
            return canonical(weights);
        }
        if weights.is_empty() {
            weights = vec![1; regions.ids().len()];
        }
        let fenced = weights.iter().zip(regions.ids()).map(|(weight, region)| match self.fences.contains_key(region) {
            true => 0,
            false => *weight,
        });
        let fenced: Vec<u32> = fenced.collect();
        // Where the fenced regions have it all, there is nobody to give it to.
        canonical(if fenced.iter().all(|weight| *weight == 0) { weights } else { fenced })
    }

    fn want_anew(&mut self, snapshot: &Snapshot, regions: &RegionMap) {
        let wanted: Vec<(Name, Vec<u32>)> = self
            .limits
            .iter()
            .filter_map(|(name, it)| Some((name.clone(), self.wanted(snapshot.limits.get(name)?, &it.split, regions))))
            .collect();
        for (name, weights) in wanted {
            if let Some(registered) = self.limits.get_mut(&name) {
                registered.split.want(weights);
            }
        }
    }

    /// Takes every step that splits can take at `at`. All changes that begin together have one number.
    pub(crate) fn advance(&mut self, snapshot: &Snapshot, rosters: &BTreeMap<RegionId, Roster>, at: WallTime) {
        let number = self.changes + 1;
        let seen = self.holders(rosters).map(|node| self.seen.get(node).copied().unwrap_or(0)).min();
        let seen_by_all = seen.unwrap_or(self.changes);
        for (name, registered) in &mut self.limits {
            let Some(limit) = snapshot.limits.get(name) else { continue };
            if registered.split.advance(limit.window(), at, number, seen_by_all) {
                self.changes = number;
            }
        }
    }
}

impl Intent {
    /// What `node` should propose now that it knows this state: that it has seen every change of splits. `None` when it
    /// has said so, is no member, or nothing waits for it.
    pub fn acknowledgement(&self, node: &NodeName, at: WallTime) -> Option<Command> {
        let waits = |pending: super::PendingShares<'_>| pending.missing.contains(&node);
        let waiting = self.members.contains_key(node) && self.limits.pending(&self.rosters).any(waits);
        waiting.then(|| Command::Acknowledge { node: node.clone(), change: self.limits.changes, at })
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
            by_demand.map(|(limit, demand)| Command::Weigh { limit: limit.clone(), demand: demand.clone(), at });
        let due = self.limits.limits.iter().any(|(name, registered)| {
            self.snapshot.limits.get(name).is_some_and(|limit| registered.split.is_due(limit.window(), at))
        });
        weigh.chain(due.then_some(Command::Settle { at })).collect()
    }

    fn in_order(&self, demand: &BTreeMap<RegionId, u64>) -> Vec<u64> {
        self.regions().ids().iter().map(|region| demand.get(region).copied().unwrap_or(0)).collect()
    }

    pub(crate) fn acknowledge(&mut self, node: &NodeName, change: u64) -> Result<Applied, Refusal> {
        if !self.members.contains_key(node) {
            return Err(Refusal::UnknownNode { node: node.clone() });
        }
        let seen = self.limits.seen.entry(node.clone()).or_default();
        *seen = change.min(self.limits.changes).max(*seen);
        Ok(Applied::Acknowledged)
    }

    pub(crate) fn weigh(
        &mut self,
        limit: &Name,
        demand: &BTreeMap<RegionId, u64>,
        at: WallTime,
    ) -> Result<Applied, Refusal> {
        let ordered = self.in_order(demand);
        let regions = Arc::clone(self.regions());
        let asks = self.snapshot.limits.get(limit).filter(|limit| limit.shares == Shares::Demand);
        let registered = asks.and_then(|_| self.limits.limits.get_mut(limit));
        let registered = registered.ok_or_else(|| Refusal::NotByDemand { limit: limit.clone() })?;
        // Two leaders may both have thought it was time.
        if demand::is_worth_it(&registered.split.demanded, &ordered, registered.split.weighed, at) {
            registered.split.demanded = demand::weights(&ordered);
            registered.split.weighed = Some(at);
            self.limits.want_anew(&self.snapshot, &regions);
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
        let regions = Arc::clone(self.regions());
        self.limits.want_anew(&self.snapshot, &regions);
        Ok(())
    }

    pub(crate) fn unfence(&mut self, region: &RegionId) -> Result<(), Refusal> {
        if self.limits.fences.remove(region).is_none() {
            return Err(Refusal::NotFenced { region: region.clone() });
        }
        let regions = Arc::clone(self.regions());
        self.limits.want_anew(&self.snapshot, &regions);
        Ok(())
    }
}
