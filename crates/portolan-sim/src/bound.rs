//! The most that a policy lets a slot admit, over all regions: what `plan` states, so that a run holds the statement.

use portolan_config::{Algorithm, Limit, OnPartition, RegionMap, Shares};
use portolan_limits::{Bound, Bounds, Fleet, Promise, base_shares};
use portolan_model::Rate;

use crate::{quotas::Quota, trouble::State};

/// The most that one slot may admit, in each state of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Most {
    /// While every node hears every other.
    pub calm: u64,
    /// Whatever breaks but the memory of a lender, and no node is kept from others of its region.
    pub troubled: u64,
    /// Whatever breaks but the memory of a lender.
    pub split: u64,
    /// Of a slot in which the limit's lender forgot once what it had lent.
    pub forgotten: u64,
    /// However often it forgets: no region goes beyond the limit by itself.
    pub at_all: u64,
}

impl Most {
    /// Of a limit that counts `quota`, in a fleet whose largest region has so many nodes.
    pub fn of(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> Self {
        if let Algorithm::TokenBucket { .. } = limit.algorithm {
            let held = Quota::of(&limit.algorithm.with_quota(quota));
            let [calm, troubled] =
                [State::Calm, State::Troubled].map(|state| bucket(limit, held, regions, state).per_second());
            return Self { calm, troubled, split: troubled, forgotten: troubled, at_all: troubled };
        }
        let bounds = bounds(limit, quota, regions, nodes);
        let units = |bound: Option<Bound>| bound.map_or(0, |bound| bound.units);
        let calm = bounds.healthy.admitted_per_slot.units;
        let troubled = calm.max(bounds.partition.admitted_per_slot.units);
        let split = troubled.max(units(bounds.cut_node));
        let at_all = split.max(quota.saturating_mul(regions.ids().len() as u64));
        Self { calm, troubled, split, forgotten: split.max(units(bounds.failover)), at_all }
    }

    /// In a slot in which the limit's lender forgot so often what it had lent.
    pub fn after_failovers(self, failovers: usize, state: State) -> u64 {
        let lent_again = (self.forgotten - self.split).saturating_mul(failovers as u64);
        match failovers {
            0 => self.in_state(state),
            _ => self.split.saturating_add(lent_again).min(self.at_all),
        }
    }

    /// In a state in which lenders remember.
    pub const fn in_state(self, state: State) -> u64 {
        match state {
            State::Calm => self.calm,
            State::Troubled => self.troubled,
            State::Split => self.split,
        }
    }
}

fn bounds(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> Bounds {
    let promise = Promise { algorithm: limit.algorithm.with_quota(quota), ..Promise::of(limit, regions) };
    Bounds::of(&promise, &Fleet::of(regions, nodes))
}

/// A token bucket over all regions.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// What drips in.
    pub rate: Rate,
    /// What it holds.
    pub burst: u64,
}

/// The bucket that all regions together may take from, of a limit that counts `quota` per period: the whole in each of
/// them while it is open and they may not hear each other.
pub fn bucket(limit: &Limit, quota: Quota, regions: &RegionMap, state: State) -> Bucket {
    let times = match (limit.on_partition, state) {
        (OnPartition::Open { .. }, State::Troubled | State::Split) => regions.ids().len() as u64,
        _ => 1,
    };
    let per = limit.algorithm.window();
    Bucket { rate: Rate { count: quota.count.saturating_mul(times), per }, burst: quota.burst.saturating_mul(times) }
}

/// What the region at `place` has of that bucket at most, by which it gains when its clock does: its shares, as long as
/// those are `stated` by the document and by nothing else. Of a burst below two seconds of the rate regions lend rate, which
/// drips into the borrower's share of the burst.
pub fn part(limit: &Limit, quota: Quota, regions: &RegionMap, place: usize, stated: bool) -> Bucket {
    let rate = Rate { count: quota.count, per: limit.algorithm.window() };
    let opens = matches!(limit.on_partition, OnPartition::Open { .. });
    if !stated || opens || limit.reclaim.is_some() || limit.shares == Shares::Demand {
        return Bucket { rate, burst: quota.burst };
    }
    let weights = Promise::of(limit, regions).weights;
    let share = |of: u64| base_shares(of, &weights, regions.ids().len()).get(place).copied().unwrap_or(of);
    let lends_rate = quota.burst < dripped(rate).saturating_mul(2);
    let count = if lends_rate { rate.count } else { share(rate.count) };
    Bucket { rate: Rate { count, ..rate }, burst: share(quota.burst) }
}

impl Bucket {
    /// The most that one second may see: what was there, what drips in, and one for rounding.
    pub fn per_second(self) -> u64 {
        self.burst.saturating_add(dripped(self.rate)).saturating_add(1)
    }
}

/// Units that drip into a token bucket in a second, at least one.
pub fn dripped(rate: Rate) -> u64 {
    let dripped = u128::from(rate.count) * 1_000_000_000 / rate.per.as_nanos().max(1);
    u64::try_from(dripped).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_states_of_any_span_what_the_slots_that_it_touches_may_admit() {
        let window = std::time::Duration::from_secs(1);
        for algorithm in [
            Algorithm::FixedWindow { quota: 90, window: portolan_config::Window::Length(window) },
            Algorithm::SlidingWindow { quota: 90, window },
        ] {
            let open = Promise { on_partition: OnPartition::OPEN, ..Promise::strict(algorithm) };
            let bounds = Bounds::of(&open, &Fleet::new(3, window, 1));
            for case in [&bounds.healthy, &bounds.partition] {
                let in_any = case.admitted_in_any_window.as_ref().map(|bound| bound.units);
                assert_eq!(in_any, Some(2 * case.admitted_per_slot.units));
            }
            let skewed = bounds.skewed.map(|bound| bound.units);
            assert_eq!(skewed, Some(3 * bounds.partition.admitted_per_slot.units));
        }
    }
}
