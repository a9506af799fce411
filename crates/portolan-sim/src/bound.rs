//! The most that a policy lets a slot admit, over all regions: what `plan` states, so that a run holds the statement.

use portolan_config::{Algorithm, Limit, OnPartition, RegionMap};
use portolan_limits::{Bounds, Fleet, Promise};
use portolan_model::Rate;

/// Of one slot whose quota is `quota`, whatever breaks but the memory of a lender.
pub fn of_slot(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> u64 {
    let bounds = bounds(limit, quota, regions, nodes);
    let worst = bounds.partition.admitted_per_slot.units.max(bounds.healthy.admitted_per_slot.units);
    worst.max(bounds.cut_node.map_or(0, |bound| bound.units))
}

/// The same of a slot in which the limit's lender forgot what it had lent.
pub fn of_forgotten_slot(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> u64 {
    let forgotten = bounds(limit, quota, regions, nodes).failover.map_or(0, |bound| bound.units);
    forgotten.max(of_slot(limit, quota, regions, nodes))
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
/// them while it is open.
pub fn bucket(limit: &Limit, quota: u64, regions: &RegionMap) -> Bucket {
    let times = match limit.on_partition {
        OnPartition::Open { .. } => regions.ids().len() as u64,
        OnPartition::Static | OnPartition::Closed | OnPartition::ClosedMinority => 1,
    };
    let (rate, burst) = match limit.algorithm.with_quota(quota) {
        Algorithm::TokenBucket { rate, burst } => (rate, burst),
        other => (Rate { count: quota, per: other.window() }, quota),
    };
    Bucket { rate: Rate { count: rate.count.saturating_mul(times), ..rate }, burst: burst.saturating_mul(times) }
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
