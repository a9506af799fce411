//! Cuts a quota into the shares of regions: a pure function of the split and the slot, so that every region that knows of
//! a split cuts a slot alike (rights ledger, rule 9.2).
//!
//! Shares are whole units that add up to the quota exactly, by the method of D'Hondt, since it is house-monotone: a larger
//! quota gives no region less. Largest remainders are not (the Alabama paradox), and then regions that hold different
//! generations of a limit could together hold more than the larger quota (rule 9.3).

use portolan_config::SharePlan;
use portolan_model::WallTime;

/// The share of each of `regions` regions in the order of the scope; they add up to `quota`.
///
/// `weights` has one weight per region; another number of them, or none above 0, means equal weights. A region whose
/// weight is 0 has no share. Grows with `quota` for every region. Costs O(regions²), for two additions per region and unit
/// left over by the lower quotas, of which there are fewer than regions.
pub fn base_shares(quota: u64, weights: &[u32], regions: usize) -> Vec<u64> {
    if regions == 0 {
        return Vec::new();
    }
    let given = weights.len() == regions && weights.iter().any(|weight| *weight > 0);
    let weights = if given { weights.iter().map(|weight| u128::from(*weight)).collect() } else { vec![1u128; regions] };
    let total: u128 = weights.iter().sum();
    // Nobody has less than the lower quota under D'Hondt, so the count may start there: never more than `quota` in sum.
    let lower = |weight: &u128| u64::try_from(u128::from(quota) * weight / total).unwrap_or(quota);
    let mut shares: Vec<u64> = weights.iter().map(lower).collect();
    for _ in shares.iter().sum::<u64>()..quota {
        // The next unit goes where weight / (share + 1) is greatest, to the first of equals.
        let mut best = 0;
        for at in 1..regions {
            let (challenger, holder) = (u128::from(shares[at]) + 1, u128::from(shares[best]) + 1);
            if weights[at] * holder > weights[best] * challenger {
                best = at;
            }
        }
        shares[best] += 1;
    }
    shares
}

/// The share of each region of a slot that begins at `begin`, in the order of the scope. While the outcome of a change is
/// not known, the smaller of both.
pub(crate) fn shares_of_slot(quota: u64, plan: &SharePlan, begin: WallTime, regions: usize) -> Vec<u64> {
    let before = base_shares(quota, &plan.weights, regions);
    let Some(change) = &plan.change else { return before };
    let after = || base_shares(quota, &change.weights, regions);
    match change.from {
        Some(from) if begin >= from => after(),
        None if begin >= change.earliest => before.into_iter().zip(after()).map(|(old, new)| old.min(new)).collect(),
        _ => before,
    }
}

/// Whether a region has a part in a slot that begins at `begin`, be it rounded to nothing; while the outcome of a change is
/// not known, in the split before and after it.
pub(crate) fn has_share(plan: &SharePlan, begin: WallTime, region: usize, regions: usize) -> bool {
    let in_part = |weights: &[u32]| match weights.get(region) {
        Some(0) if weights.len() == regions => weights.iter().all(|weight| *weight == 0),
        _ => true,
    };
    let Some(change) = &plan.change else { return in_part(&plan.weights) };
    match change.from {
        Some(from) if begin >= from => in_part(&change.weights),
        None if begin >= change.earliest => in_part(&plan.weights) && in_part(&change.weights),
        _ => in_part(&plan.weights),
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::ShareChange;
    use proptest::prelude::*;

    use super::*;

    /// The method of D'Hondt as it is defined: unit by unit from nothing.
    fn unit_by_unit(quota: u64, weights: &[u32]) -> Vec<u64> {
        let mut shares = vec![0u64; weights.len()];
        for _ in 0..quota {
            let worth = |at: usize| (u128::from(weights[at]), u128::from(shares[at]) + 1);
            let better = |a: usize, b: usize| worth(a).0 * worth(b).1 > worth(b).0 * worth(a).1;
            let best = (1..weights.len()).fold(0, |best, at| if better(at, best) { at } else { best });
            shares[best] += 1;
        }
        shares
    }

    #[test]
    fn shares_follow_the_weights() {
        let check = |quota, weights: &[u32], regions, expected: &[u64]| {
            assert_eq!(base_shares(quota, weights, regions), expected)
        };
        check(1000, &[], 3, &[334, 333, 333]);
        check(2, &[], 3, &[1, 1, 0]);
        check(1000, &[60, 20, 10, 7, 3], 5, &[600, 200, 100, 70, 30]);
        check(10, &[6, 4], 2, &[6, 4]);
        check(10, &[0, 4, 0], 3, &[0, 10, 0]);
        check(10, &[0, 0], 2, &[5, 5]);
        check(7, &[1, 1], 3, &[3, 2, 2]);
        check(0, &[5, 5], 2, &[0, 0]);
        check(5, &[], 0, &[]);
        check(u64::MAX, &[u32::MAX, 1], 2, &[u64::MAX - 4_294_967_295, 4_294_967_295]);
    }

    fn weights() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0..1000u32, 1..12)
            .prop_filter("some weight", |weights| weights.iter().any(|weight| *weight > 0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn shares_sum_to_the_quota(quota in 0..2_000_000_000u64, weights in weights()) {
            let shares = base_shares(quota, &weights, weights.len());
            prop_assert_eq!(shares.iter().sum::<u64>(), quota);
            prop_assert!(shares.iter().zip(&weights).all(|(share, weight)| *weight > 0 || *share == 0));
        }

        #[test]
        fn a_larger_quota_gives_no_region_less(quota in 0..100_000u64, more in 0..50u64, weights in weights()) {
            let (small, large) =
                (base_shares(quota, &weights, weights.len()), base_shares(quota + more, &weights, weights.len()));
            prop_assert!(small.iter().zip(&large).all(|(small, large)| small <= large), "{small:?} {large:?}");
        }

        #[test]
        fn a_start_from_the_lower_quotas_is_the_method_itself(quota in 0..300u64, weights in weights()) {
            prop_assert_eq!(base_shares(quota, &weights, weights.len()), unit_by_unit(quota, &weights));
        }

        #[test]
        fn whoever_has_units_of_a_slot_has_a_share_and_whoever_has_no_share_has_no_units(
            quota in 0..300u64, before in 0..3usize, after in 0..3usize, from in 0..3u64, begin in 0..4u64,
        ) {
            let weights = [vec![], vec![0, 3, 1], vec![1, 0, 1]];
            let at = WallTime::from_unix_millis;
            let from = (from > 0).then(|| at(from));
            let change = ShareChange { weights: weights[after].clone(), from, earliest: from.unwrap_or(at(1)) };
            let plan = SharePlan { weights: weights[before].clone(), change: Some(change) };
            let shares = shares_of_slot(quota, &plan, at(begin), 3);
            for (region, share) in shares.into_iter().enumerate() {
                let part = has_share(&plan, at(begin), region, 3);
                prop_assert!(part || share == 0, "{region}: {share} of {quota}");
                prop_assert!(!part || share > 0 || quota < 4, "{region} has nothing of {quota}");
            }
        }

        #[test]
        fn without_one_region_no_other_has_less(quota in 0..10_000u64, weights in weights(), gone in 0..12usize) {
            let gone = gone % weights.len();
            let mut without = weights.clone();
            without[gone] = 0;
            if without.iter().all(|weight| *weight == 0) {
                return Ok(());
            }
            let (before, after) =
                (base_shares(quota, &weights, weights.len()), base_shares(quota, &without, weights.len()));
            let others = before.iter().zip(&after).enumerate().filter(|(at, _)| *at != gone);
            prop_assert!(others.clone().all(|(_, (before, after))| before <= after), "{before:?} {after:?}");
        }
    }
}
