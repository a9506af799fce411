//! Weights that follow demand. Decides how a region's demand becomes a weight, and when another split is worth its trouble;
//! measures nothing itself.

use std::time::Duration;

use portolan_model::WallTime;

/// A weight per region: four fifths by its part of the demand, a fifth alike, in parts per 10 000, so that a region that
/// nobody asks today can still answer tomorrow. Empty when there was no demand.
pub(super) fn weights(demand: &[u64]) -> Vec<u32> {
    let total: u128 = demand.iter().map(|demand| u128::from(*demand)).sum();
    if total == 0 {
        return Vec::new();
    }
    let alike = BY_NOBODY / u128::try_from(demand.len()).unwrap_or(1).max(1);
    let weigh = |demand: &u64| (u128::from(*demand) * BY_DEMAND + total / 2) / total + alike;
    demand.iter().map(|demand| u32::try_from(weigh(demand)).unwrap_or(u32::MAX)).collect()
}

/// Whether a split that was weighed at `last` gives way to one by `demand`: not more often than every ten minutes, and
/// only if some region's share moves by five points or more.
pub(super) fn is_worth_it(current: &[u32], demand: &[u64], last: Option<WallTime>, at: WallTime) -> bool {
    let rested = last.is_none_or(|last| at >= last + REST);
    let wanted = weights(demand);
    rested && !wanted.is_empty() && moved(current, &wanted) >= LEAST_MOVE
}

/// The largest change of a share, in parts per 10 000.
fn moved(current: &[u32], wanted: &[u32]) -> u128 {
    let share = |weights: &[u32], at: usize| match weights.iter().map(|weight| u128::from(*weight)).sum::<u128>() {
        0 => 10_000 / wanted.len() as u128,
        total => u128::from(weights.get(at).copied().unwrap_or(0)) * 10_000 / total,
    };
    (0..wanted.len()).map(|at| share(current, at).abs_diff(share(wanted, at))).max().unwrap_or(0)
}

/// The part of a share that follows demand, and the part that does not, per 10 000.
const BY_DEMAND: u128 = 8000;
const BY_NOBODY: u128 = 2000;

/// Between two splits by demand: each costs an acknowledgement of every node.
const REST: Duration = Duration::from_secs(600);

/// Per 10 000: smaller moves are what lending between regions is for.
const LEAST_MOVE: u128 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_four_fifths_demand_and_one_fifth_alike() {
        assert_eq!(weights(&[60, 20, 10, 7, 3]), [5200, 2000, 1200, 960, 640]);
        assert_eq!(weights(&[5, 0]), [9000, 1000]);
        assert_eq!(weights(&[u64::MAX, u64::MAX]), [5000, 5000]);
        assert_eq!(weights(&[0, 0]), [0u32; 0]);
        assert_eq!(weights(&[]), [0u32; 0]);
    }

    #[test]
    fn a_split_is_weighed_again_only_after_a_rest_and_for_five_points() {
        let at = |secs| WallTime::from_unix_millis(secs * 1000);
        let check = |current: &[u32], demand: &[u64], last: Option<u64>, expected| {
            assert_eq!(is_worth_it(current, demand, last.map(at), at(1000)), expected, "{current:?} {demand:?}");
        };
        // Equal to 5000, 5000 as well; 80 to 20 is 7400, 2600.
        check(&[], &[80, 20], None, true);
        check(&[], &[80, 20], Some(401), false);
        check(&[], &[80, 20], Some(400), true);
        check(&[7400, 2600], &[80, 20], None, false);
        // 86 to 14 moves 480, 87 to 13 moves 560.
        check(&[7400, 2600], &[86, 14], None, false);
        check(&[7400, 2600], &[87, 13], None, true);
        check(&[], &[0, 0], None, false);
    }
}
