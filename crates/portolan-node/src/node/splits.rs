//! How limits are split between regions, as far as it takes a node's word: every node says that it heeds a change and that
//! it goes on without those that its roster dropped, and the leader orders splits by the demand that nodes publish. What a split means and when it is in force is the intent's.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::{Command, Shares};
use portolan_model::{Name, Now, RegionId, Timestamp};

use super::{MAX_QUEUE, Node, PROPOSE_AGAIN};

/// How often demand is read, and weighed by the leader.
const READ_PERIOD: Duration = Duration::from_secs(10);

/// Time over which demand is averaged. Shares follow days rather than minutes; lending follows the minutes.
const AVERAGED_OVER: Duration = Duration::from_secs(300);

/// Limits whose demand a node publishes; later ones by name keep the split they have.
const MAX_PUBLISHED: usize = 16;

/// What a node has said and measured.
#[derive(Debug, Default)]
pub(super) struct Splits {
    acknowledged: Option<Timestamp>,
    taken_over: Option<Timestamp>,
    read: Option<Timestamp>,
    /// Units asked of limits that are split by demand: in all, and a thousand seconds' worth by the average.
    asked: BTreeMap<Name, (u64, f64)>,
}

impl Splits {
    /// What this node is asked for of each limit that is split by demand, in units per thousand seconds.
    pub fn demand(&self) -> Vec<(Name, u64)> {
        self.asked.iter().take(MAX_PUBLISHED).map(|(limit, (_, rate))| (limit.clone(), *rate as u64)).collect()
    }
}

impl Node {
    /// Proposes what is due.
    pub(super) fn tend_splits(&mut self, now: Now) {
        if self.splits.acknowledged.is_none_or(|at| now.mono.since(at) >= PROPOSE_AGAIN)
            // By the limits' clock: one that was set back since would vouch for slots that are spent already.
            && let Some(command) = self.intent.acknowledgement(&self.config.name, self.limits.latest().max(now.wall))
        {
            self.splits.acknowledged = Some(now.mono);
            self.propose(command);
        }
        self.tell_takeover(now);
        if self.splits.read.is_none_or(|at| now.mono.since(at) >= READ_PERIOD) {
            self.read_demand(now.mono);
            if self.guard.raft().is_some_and(|raft| raft.is_leader) {
                let orders = self.intent.weighings(&self.demand(now.mono), now.wall);
                orders.into_iter().for_each(|command| self.propose(command));
            }
        }
    }

    /// Says that this node's region goes on without those that its roster dropped.
    fn tell_takeover(&mut self, now: Now) {
        let rests = self.splits.taken_over.is_some_and(|at| now.mono.since(at) < PROPOSE_AGAIN);
        let Some(held) = self.limits.taken_over().filter(|_| !rests) else { return };
        if let Some(command) = self.intent.takeover(&self.config.name, held, self.limits.latest().max(now.wall)) {
            self.splits.taken_over = Some(now.mono);
            self.propose(command);
        }
    }

    /// Averages what was asked since the last time.
    fn read_demand(&mut self, now: Timestamp) {
        let elapsed = self.splits.read.replace(now).map_or(0.0, |at| now.since(at).as_secs_f64());
        let mut asked = BTreeMap::<Name, u64>::new();
        for budget in self.intent.limits.budgets(&self.intent.snapshot) {
            if budget.limit.shares == Shares::Demand {
                *asked.entry(budget.limit.name.clone()).or_default() += self.limits.asked(budget.binding.id);
            }
        }
        let fresh = 1.0 - (-elapsed / AVERAGED_OVER.as_secs_f64()).exp();
        let average = |(limit, total): (Name, u64)| {
            let (before, rate) = self.splits.asked.get(&limit).copied().unwrap_or((total, 0.0));
            let latest = if elapsed > 0.0 { total.saturating_sub(before) as f64 * 1000.0 / elapsed } else { 0.0 };
            (limit, (total, rate + (latest - rate) * fresh))
        };
        self.splits.asked = asked.into_iter().map(average).collect();
    }

    /// What every region is asked for, by what its nodes published.
    fn demand(&self, now: Timestamp) -> BTreeMap<Name, BTreeMap<RegionId, u64>> {
        let mut demand = BTreeMap::<Name, BTreeMap<RegionId, u64>>::new();
        let mut add = |region: &RegionId, limit: &Name, units: u64| {
            let of = demand.entry(limit.clone()).or_default().entry(region.clone()).or_default();
            *of = of.saturating_add(units);
        };
        for (limit, units) in self.splits.demand() {
            add(&self.config.region, &limit, units);
        }
        for known in self.known.values().filter(|known| known.is_fresh(now)) {
            known.facts.demand.iter().for_each(|(limit, units)| add(&known.facts.region, limit, *units));
        }
        demand
    }

    pub(super) fn propose(&mut self, command: Command) {
        if self.proposals.len() < MAX_QUEUE {
            self.proposals.push_back(command);
        }
    }
}
