//! When a limit must refuse everything: under `closed` while some region is unheard, under `closed(minority)` while those
//! that are heard own half of it at most. Judged by what is cut, never by whom the gateway says that it hears.

use portolan_config::{Limit, OnPartition, RegionMap, Shares};

/// Which regions a node may take for heard, by place.
#[derive(Clone, Debug)]
pub struct Heard(pub Vec<bool>);

impl Heard {
    /// Whether a limit must refuse. Of one whose split may not be that of the document nothing is said by shares.
    pub fn forbids(&self, limit: &Limit, regions: &RegionMap, split_as_written: bool) -> bool {
        match limit.on_partition {
            OnPartition::Static | OnPartition::Open { .. } => false,
            OnPartition::Closed => !self.0.iter().all(|heard| *heard),
            OnPartition::ClosedMinority => split_as_written && self.is_minority(limit, regions),
        }
    }

    fn is_minority(&self, limit: &Limit, regions: &RegionMap) -> bool {
        let weights: Vec<u64> = match &limit.shares {
            Shares::Equal => vec![1; regions.ids().len()],
            Shares::Weights(weights) => {
                regions.ids().iter().map(|id| weights.get(id).copied().unwrap_or(0).into()).collect()
            }
            // Who owns how much is the gateway's to say.
            Shares::Demand => return false,
        };
        let reached = || weights.iter().zip(&self.0).filter(|(_, heard)| **heard).map(|(weight, _)| *weight);
        let total: u64 = weights.iter().sum();
        let [all, units, reached, count] =
            [total, limit.quota(), reached().sum(), reached().count() as u64].map(u128::from);
        // Rounding may give each a unit more.
        2 * (units * reached + count * all) <= units * all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::tests::parsed;

    #[test]
    fn a_limit_is_closed_to_whom_it_says() {
        let check = |limit: &str, heard: [bool; 3], expected: bool| {
            let (limit, regions, _) = parsed(limit);
            let found = Heard(heard.to_vec()).forbids(&limit, &regions, true);
            assert_eq!(found, expected, "{limit:?} {heard:?}");
        };
        check("rate: 90/s", [true, false, false], false);
        check("rate: 90/s, on_partition: closed", [true, true, true], false);
        check("rate: 90/s, on_partition: closed", [true, true, false], true);
        check("rate: 90/s, on_partition: closed(minority)", [true, true, false], false);
        check("rate: 90/s, on_partition: closed(minority)", [true, false, false], true);
        let heavy = "rate: 90/s, on_partition: closed(minority), shares: { a: 60, b: 20, c: 20 }";
        check(heavy, [true, false, false], false);
        check(heavy, [false, true, true], true);
        let (limit, regions, _) = parsed(heavy);
        assert!(
            !Heard(vec![false, true, true]).forbids(&limit, &regions, false),
            "the split of before may be in force"
        );
        // One of three units may be more than half of the shares that whole numbers give.
        check("rate: 1/s, on_partition: closed(minority)", [true, false, false], false);
    }
}
