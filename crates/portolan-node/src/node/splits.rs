//! How limits are split between regions, as far as it takes a node's word: every node says that it heeds a change and that
//! it goes on without those that its roster dropped, and the leader orders splits by the demand that nodes publish. What a split means and when it is in force is the intent's.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::{Command, Shares};
use portolan_model::{Name, NodeName, Now, RegionId, Timestamp};

use super::{MAX_QUEUE, Node, PROPOSE_AGAIN};

/// How often demand is read, and weighed by the leader.
const READ_PERIOD: Duration = Duration::from_secs(10);

/// Time over which demand is averaged. Shares follow days rather than minutes; lending follows the minutes.
const AVERAGED_OVER: Duration = Duration::from_secs(300);

/// What a node has said and measured.
#[derive(Debug, Default)]
pub(super) struct Splits {
    acknowledged: Option<Timestamp>,
    taken_over: Option<Timestamp>,
    read: Option<Timestamp>,
    /// What limits that are split by demand are asked for; a document has few of them.
    asked: BTreeMap<Name, Asked>,
}

/// What this node was asked for of one limit.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Units in all.
    total: u64,
    /// Units per thousand seconds, as an exponential average that began at 0.
    rate: f64,
    /// How long was averaged.
    over: Duration,
}

impl Asked {
    fn of(total: u64) -> Self {
        Self { total, rate: 0.0, over: Duration::ZERO }
    }

    fn read(&mut self, total: u64, elapsed: Duration) {
        if elapsed.is_zero() {
            return;
        }
        let latest = total.saturating_sub(self.total) as f64 * 1000.0 / elapsed.as_secs_f64();
        self.rate += (latest - self.rate) * weight_of(elapsed);
        (self.total, self.over) = (total, self.over + elapsed);
    }

    /// The average, without what its beginning at 0 took from it; `None` while it says little: a node that has just
    /// started would look idle, and others would take its region's shares.
    fn average(&self) -> Option<u64> {
        (self.over >= AVERAGED_OVER).then(|| (self.rate / weight_of(self.over)) as u64)
    }
}

/// What the last so-and-so long weighs in an average.
fn weight_of(time: Duration) -> f64 {
    1.0 - (-time.as_secs_f64() / AVERAGED_OVER.as_secs_f64()).exp()
}

impl Splits {
    /// What this node is asked for of each limit that is split by demand, in units per thousand seconds, as far as it
    /// has been averaged long enough.
    pub fn demand(&self) -> Vec<(Name, u64)> {
        self.asked.iter().filter_map(|(limit, asked)| Some((limit.clone(), asked.average()?))).collect()
    }
}

impl Node {
    /// Proposes what is due.
    pub(super) fn tend_splits(&mut self, now: Now) {
        if self.splits.acknowledged.is_none_or(|at| now.mono.since(at) >= PROPOSE_AGAIN)
            // By the limits' clock: one that was set back since would vouch for slots that are spent already.
            && let Some(command) = self.intent.acknowledgement(&self.config.name, self.limits.wall_at(now))
            // What is in flight has no slot to end with: no other region may have it before it has ended.
            && self.limits.fits_shares()
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
        if let Some(command) = self.intent.takeover(&self.config.name, held, self.limits.wall_at(now)) {
            self.splits.taken_over = Some(now.mono);
            self.propose(command);
        }
    }

    /// Averages what was asked since the last time.
    fn read_demand(&mut self, now: Timestamp) {
        let elapsed = self.splits.read.replace(now).map_or(Duration::ZERO, |at| now.since(at));
        let mut asked = BTreeMap::<Name, u64>::new();
        for budget in self.intent.limits.budgets(&self.intent.snapshot) {
            if budget.limit.shares == Shares::Demand {
                *asked.entry(budget.limit.name.clone()).or_default() += self.limits.asked(budget.binding.id);
            }
        }
        let average = |(limit, total): (Name, u64)| {
            let mut known = self.splits.asked.get(&limit).copied().unwrap_or(Asked::of(total));
            known.read(total, elapsed);
            (limit, known)
        };
        self.splits.asked = asked.into_iter().map(average).collect();
    }

    /// What every region is asked for of the limits for which all have told: one that is cut off, or has started lately,
    /// would count as one that nobody asks, and lose shares for as long as a split rests.
    fn demand(&self, now: Timestamp) -> BTreeMap<Name, BTreeMap<RegionId, u64>> {
        let own = self.splits.demand();
        let fences = self.intent.limits.fences();
        let rosters = self.intent.rosters.iter().filter(|(region, _)| !fences.contains_key(*region));
        let told = |node: &NodeName| match *node == self.config.name {
            true => Some(own.as_slice()),
            false => Some(self.known.get(node).filter(|known| known.is_fresh(now))?.facts.demand.as_slice()),
        };
        let holders: Vec<Holder<'_>> = rosters
            .flat_map(|(region, roster)| roster.nodes.iter().map(move |node| (region, node)))
            .map(|(region, node)| (region, told(node)))
            .collect();
        self.splits.asked.keys().filter_map(|limit| Some((limit.clone(), demand_of(limit, &holders)?))).collect()
    }

    pub(super) fn propose(&mut self, command: Command) {
        if self.proposals.len() < MAX_QUEUE {
            self.proposals.push_back(command);
        }
    }
}

/// A node that shares limits: its region, and what it published if that is fresh.
type Holder<'a> = (&'a RegionId, Option<&'a [(Name, u64)]>);

/// What each region is asked for of a limit; `None` unless every node has told.
fn demand_of(limit: &Name, holders: &[Holder<'_>]) -> Option<BTreeMap<RegionId, u64>> {
    let mut demand = BTreeMap::<RegionId, u64>::new();
    for (region, told) in holders {
        let (_, units) = (*told)?.iter().find(|(of, _)| of == limit)?;
        let of = demand.entry((*region).clone()).or_default();
        *of = of.saturating_add(*units);
    }
    Some(demand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_is_told_when_it_was_averaged_for_five_minutes_and_not_before() {
        let mut asked = Asked::of(7000);
        let mut first = None;
        for reading in 1..=60 {
            asked.read(7000 + reading * 50, READ_PERIOD);
            first = first.or(asked.average().map(|units| (reading, units)));
        }
        // 50 units in ten seconds are 5000 in a thousand.
        assert!(matches!(first, Some((30, 4999..=5000))), "{first:?}");
    }

    #[test]
    fn no_split_is_weighed_while_a_node_that_shares_limits_has_not_told_its_demand() {
        let name = |name: &str| Name::new(name).expect("a name");
        let region = |name: &str| RegionId::new(name).expect("a name");
        let (a, b) = (region("a"), region("b"));
        let (told, other) = ([(name("api"), 5)], [(name("exports"), 5)]);
        let check = |last: Option<&[(Name, u64)]>, expected: Option<[u64; 2]>| {
            let holders = [(&a, Some(told.as_slice())), (&a, Some(told.as_slice())), (&b, last)];
            let expected = expected.map(|units| [a.clone(), b.clone()].into_iter().zip(units).collect());
            assert_eq!(demand_of(&name("api"), &holders), expected);
        };
        check(Some(&told), Some([10, 5]));
        check(Some(&other), None);
        check(None, None);
    }
}
