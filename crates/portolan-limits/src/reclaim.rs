//! Whose shares a slot is split over: all regions of the scope, but of limits that opt in those whose lease had lapsed (a
//! region that an operator fences loses its shares by a change of the split). Decided by the slot's begin alone, so that
//! every region that knows of it cuts the slot alike; one that does not know keeps its smaller share. Never touches a
//! slot that a dead region may have spent or lent in: those are stranded (rights ledger, rule 9.6).

use std::time::Duration;

use portolan_config::SharePlan;
use portolan_model::WallTime;

use crate::{horizon::CLOCK_TOLERANCE, shares::base_shares};

/// The time a region may use strict rights of limits that reclaim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Slots that begin before this are not the region's: it came back with this lease.
    pub from: WallTime,
    /// It stops before this.
    pub until: WallTime,
}

/// What is known of one region's right to a share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub lease: Option<Lease>,
}

impl Standing {
    /// Whether the region has no share in a slot that begins at `begin`.
    pub fn absent(&self, begin: WallTime, reclaims: bool) -> bool {
        let lapsed = |lease: Lease| begin >= lease.until + TOLERANCE || begin < lease.from;
        reclaims && self.lease.is_some_and(lapsed)
    }

    /// What the region itself may spend and lend: of slots that begin at the first instant or later, before the second.
    /// Asked before each admission, so also by a process that was stopped for a while.
    pub fn spending(&self, reclaims: bool) -> (WallTime, WallTime) {
        let lease = self.lease.filter(|_| reclaims);
        lease.map_or((WallTime::default(), NEVER), |lease| (lease.from, lease.until - TOLERANCE))
    }
}

/// The base shares of a slot that begins at `begin`, in the order of the scope. With nobody absent they are those of the
/// plan; without some region no other has less (D'Hondt), so regions that differ in what they know never sum to more.
pub(crate) fn bases(
    quota: u64,
    plan: &SharePlan,
    begin: WallTime,
    window: Duration,
    standings: &[Standing],
    reclaims: bool,
) -> Vec<u64> {
    let regions = standings.len();
    let split = |weights: &[u32]| base_shares(quota, &present(weights, begin, standings, reclaims), regions);
    let absent = |at: usize| standings[at].absent(begin, reclaims);
    let Some(change) = &plan.change else { return without_absent(split(&plan.weights), absent) };
    let (before, after) = (split(&plan.weights), split(&change.weights));
    let shares = match change.from {
        Some(from) if begin >= from => after,
        None if begin >= change.since + window * 2 => {
            before.iter().zip(&after).map(|(before, after)| *before.min(after)).collect()
        }
        _ => before,
    };
    without_absent(shares, absent)
}

fn present(weights: &[u32], begin: WallTime, standings: &[Standing], reclaims: bool) -> Vec<u32> {
    let weight = |at: usize| if weights.len() == standings.len() { weights[at] } else { 1 };
    let absent = |at: usize| standings[at].absent(begin, reclaims);
    (0..standings.len()).map(|at| if absent(at) { 0 } else { weight(at) }).collect()
}

/// Where no weight is left, equal shares would give the absent theirs again.
fn without_absent(mut shares: Vec<u64>, absent: impl Fn(usize) -> bool) -> Vec<u64> {
    shares.iter_mut().enumerate().filter(|(at, _)| absent(*at)).for_each(|(_, share)| *share = 0);
    shares
}

const NEVER: WallTime = WallTime::from_unix_millis(u64::MAX);

/// Two sound clocks differ by this at most: one stops, the other begins that much apart.
const TOLERANCE: Duration = CLOCK_TOLERANCE;

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(millis: u64) -> WallTime {
        WallTime::from_unix_millis(millis)
    }

    fn leased(from: u64, until: u64) -> Standing {
        Standing { lease: Some(Lease { from: wall(from), until: wall(until) }) }
    }

    fn shares(begin: u64, standing: Standing, reclaims: bool) -> Vec<u64> {
        let standings = [Standing::default(), standing, Standing::default()];
        let plan = SharePlan { weights: vec![1, 2, 1], change: None };
        bases(100, &plan, wall(begin), Duration::from_secs(1), &standings, reclaims)
    }

    #[test]
    fn rule_6_only_slots_that_start_after_the_lease_and_the_tolerance_are_redistributed() {
        let lease = leased(0, 30_000);
        assert_eq!(shares(30_000, lease, true), [25, 50, 25], "it may have spent and lent in this slot");
        assert_eq!(shares(31_000, lease, true), [50, 0, 50]);
        assert_eq!(shares(31_000, lease, false), [25, 50, 25], "the limit did not opt in");
        assert_eq!(lease.spending(true), (wall(0), wall(29_500)));
        assert_eq!(lease.spending(false), (wall(0), NEVER));
    }

    #[test]
    fn rule_6_a_region_that_comes_back_has_no_share_before_the_instant_all_agreed_on() {
        let back = leased(90_000, 120_000);
        assert_eq!((shares(89_000, back, true), shares(90_000, back, true)), (vec![50, 0, 50], vec![25, 50, 25]));
        assert_eq!(back.spending(true).0, wall(90_000));
    }
}
