//! When a limit was last split between regions otherwise than its document says, or about to be: by the splits that the
//! cluster has agreed on, which are a pure function of the log. Never asks a node what it holds; and a change that takes
//! too long excuses nobody for ever.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Limit, RegionMap, SharePlan};
use portolan_limits::{Promise, base_shares};
use portolan_model::Name;
use tokio::time::Duration;

use crate::{civil::millis, world::World};

/// How long a change of a split may take, and windows of the limit beside that: one split waits for the one before it, and
/// each for slots that nobody has touched.
const CHANGED_WITHIN: Duration = Duration::from_secs(60);
const CHANGED_WITHIN_WINDOWS: i64 = 8;

/// When limits were split otherwise last, in milliseconds of the scenario.
#[derive(Debug, Default)]
pub struct Splits(BTreeMap<Name, i64>);

impl Splits {
    /// When a limit was split otherwise last, if something happened at `since_ms` last that splits may change by.
    pub fn last_ms(&self, limit: &Limit, since_ms: Option<i64>) -> Option<i64> {
        let windows_ms = millis(limit.window()).saturating_mul(CHANGED_WITHIN_WINDOWS);
        let until_ms = since_ms.unwrap_or_default().saturating_add(millis(CHANGED_WITHIN)).saturating_add(windows_ms);
        self.0.get(&limit.name).map(|last_ms| (*last_ms).min(until_ms))
    }
}

/// Whether a limit is split as its document says, and neither another split is on its way nor the one before remembered: of a
/// limit of concurrency, that lasts as long.
fn is_as_written(limit: &Limit, plan: &SharePlan, regions: &RegionMap) -> bool {
    let cut = |weights: &[u32]| base_shares(1_000_000, weights, regions.ids().len());
    plan.change.is_none() && cut(&plan.weights) == cut(&Promise::of(limit, regions).weights)
}

impl World<'_> {
    /// Looks how the cluster has agreed to split limits.
    pub fn note_splits(&mut self) {
        let Some((intent, _)) = self.newest_intent() else { return };
        let (regions, at_ms) = (&self.sources.regions, self.at_ms());
        let limits = || intent.snapshot.limits.values();
        let otherwise = |limit: &&Arc<Limit>| {
            let plan = intent.limits.shares(&limit.name);
            plan.is_some_and(|plan| !is_as_written(limit, plan, regions))
        };
        let names: Vec<Name> = limits().filter(otherwise).map(|limit| limit.name.clone()).collect();
        names.into_iter().for_each(|name| _ = self.tally.truth.splits.0.insert(name, at_ms));
    }
}

#[cfg(test)]
mod tests {
    use portolan_config::ShareChange;
    use portolan_model::WallTime;

    use super::*;
    use crate::tally::tests::parsed;

    #[test]
    fn a_limit_is_split_as_written_when_no_other_split_is_in_force_or_on_its_way() {
        let check = |weights: &[u32], change: Option<(&[u32], Option<u64>)>, expected: bool| {
            let (limit, regions, _) = parsed("rate: 90/10s, shares: { a: 2, b: 1, c: 0 }");
            let at = WallTime::from_unix_millis;
            let on_its_way = |(weights, from): (&[u32], Option<u64>)| ShareChange {
                weights: weights.to_vec(),
                from: from.map(at),
                earliest: at(0),
            };
            let plan = SharePlan { weights: weights.to_vec(), change: change.map(on_its_way) };
            let change = &plan.change;
            assert_eq!(is_as_written(&limit, &plan, &regions), expected, "{weights:?} {change:?}");
        };
        check(&[2, 1, 0], None, true);
        check(&[4, 2, 0], None, true);
        check(&[], None, false);
        check(&[0, 1, 0], None, false);
        check(&[2, 1, 0], Some((&[0, 1, 0], None)), false);
        check(&[0, 1, 0], Some((&[2, 1, 0], None)), false);
        check(&[0, 1, 0], Some((&[2, 1, 0], Some(50_000))), false);
    }

    #[test]
    fn a_change_excuses_for_no_longer_than_it_may_take() {
        let (limit, ..) = parsed("rate: 90/10s");
        let splits = Splits(BTreeMap::from([(limit.name.clone(), 200_000)]));
        let last_ms = |since_ms| splits.last_ms(&limit, since_ms);
        assert_eq!([None, Some(30_000), Some(90_000)].map(last_ms), [140_000, 170_000, 200_000].map(Some));
        assert_eq!(Splits::default().last_ms(&limit, Some(1)), None);
    }
}
