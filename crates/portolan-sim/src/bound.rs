//! The most that a policy lets a slot admit, over all regions.

use portolan_config::{Limit, OnPartition};
use portolan_model::Rate;

/// Of one slot whose quota is `quota`, in a fleet of so many regions.
pub fn of_slot(limit: &Limit, quota: u64, regions: usize) -> u64 {
    let regions = regions as u64;
    match limit.on_partition {
        // Each side of a partition may reach the whole quota, and there are as many sides as regions at most.
        OnPartition::Open { .. } => quota.saturating_mul(regions),
        OnPartition::Static | OnPartition::Closed | OnPartition::ClosedMinority => {
            let overdraft = limit.overdraft.of(quota);
            // Every region may round its own part up by one.
            quota + overdraft + if overdraft > 0 { regions } else { 0 }
        }
    }
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
