//! The most that a policy lets a slot admit, over all regions: what `plan` states, so that a run holds the statement.

use portolan_config::{Limit, RegionMap, Shares};
use portolan_limits::{Bounds, Fleet, Promise};
use portolan_model::Rate;

/// Of one slot whose quota is `quota`, whatever breaks.
pub fn of_slot(limit: &Limit, quota: u64, regions: &RegionMap, nodes: u32) -> u64 {
    let weights: Vec<u32> = match &limit.shares {
        Shares::Weights(weights) => regions.ids().iter().map(|id| weights.get(id).copied().unwrap_or(0)).collect(),
        Shares::Demand | Shares::Equal => Vec::new(),
    };
    let promise = Promise { algorithm: limit.algorithm.with_quota(quota), ..Promise::of(limit, &weights) };
    let bounds = Bounds::of(&promise, &Fleet::of(regions, nodes));
    let worst = bounds.partition.admitted_per_slot.units.max(bounds.healthy.admitted_per_slot.units);
    let special = [bounds.cut_node, bounds.failover];
    special.into_iter().flatten().map(|bound| bound.units).fold(worst, u64::max)
}

/// Of one second of a token bucket: what was there, what drips in, and one for rounding.
pub fn of_second(rate: Rate, burst: u64) -> u64 {
    burst.saturating_add(dripped(rate)).saturating_add(1)
}

/// Units that drip into a token bucket in a second, at least one.
pub fn dripped(rate: Rate) -> u64 {
    let dripped = u128::from(rate.count) * 1_000_000_000 / rate.per.as_nanos().max(1);
    u64::try_from(dripped).unwrap_or(u64::MAX).max(1)
}
