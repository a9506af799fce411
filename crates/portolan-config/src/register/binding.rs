//! Gives limits their numbers. A number names one set of counters for ever: it is kept while counts stay comparable, and
//! never given out twice (rights ledger, rule 3: a limit carries a generation and an id that is never reused).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Limit;

/// The number of a budget; never given to another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LimitId(pub u32);

/// Which counters a budget has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitBinding {
    /// Changes with the window, the key, the way of counting or the lender: spend is not comparable then.
    pub id: LimitId,
    /// Grows with every change of the count: spend carries over.
    pub generation: u32,
}

/// The numbers of a limit's budgets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Of whoever has no plan and no override.
    pub own: LimitBinding,
    /// Of each plan.
    pub plans: BTreeMap<String, LimitBinding>,
    /// Of single consumers.
    pub overrides: BTreeMap<String, LimitBinding>,
}

/// Numbers without the names of plans and consumers: they stand in the document, in this order.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedNumbers {
    own: LimitBinding,
    plans: Vec<LimitBinding>,
    overrides: Vec<LimitBinding>,
}

impl Numbers {
    /// Numbers the budgets of `limit`, which `before` had with these numbers, and with the same lender if any: unchanged,
    /// same number and generation; another count, next generation, since spend carries over; another window, key or
    /// algorithm, or a new budget, a fresh number.
    pub fn follow(before: Option<(&Limit, &Self)>, limit: &Limit, next: &mut LimitId) -> Self {
        let comparable = |was: &Limit| was.key == limit.key && was.algorithm.comparable(&limit.algorithm);
        let before = before.filter(|(was, _)| comparable(was));
        let mut number = |before: Option<(LimitBinding, bool)>| match before {
            Some((LimitBinding { id, generation }, changed)) => {
                LimitBinding { id, generation: generation + u32::from(changed) }
            }
            None => {
                *next = LimitId(next.0 + 1);
                LimitBinding { id: *next, generation: 1 }
            }
        };
        // A burst is cut by the quota, so it changes with the limit's own algorithm.
        let changed = |was: &Limit, then: u64, now: u64| {
            then != now || was.algorithm.with_quota(now) != limit.algorithm.with_quota(now)
        };
        let own = number(before.map(|(was, numbers)| (numbers.own, was.algorithm != limit.algorithm)));
        let mut each = |quotas: &BTreeMap<String, u64>, known: &dyn Fn(&str) -> Option<(LimitBinding, u64)>| {
            let numbers = quotas.iter().map(|(name, quota)| {
                let before = before.zip(known(name));
                (name.clone(), number(before.map(|((was, _), (binding, then))| (binding, changed(was, then, *quota)))))
            });
            numbers.collect()
        };
        let quotas = limit.plans.as_ref().map(|plans| &plans.quotas);
        let plans = quotas.map_or_else(BTreeMap::new, |quotas| {
            each(quotas, &|name| {
                let (was, numbers) = before?;
                Some((*numbers.plans.get(name)?, *was.plans.as_ref()?.quotas.get(name)?))
            })
        });
        let overrides = each(&limit.overrides, &|name| {
            let (was, numbers) = before?;
            Some((*numbers.overrides.get(name)?, *was.overrides.get(name)?))
        });
        Self { own, plans, overrides }
    }

    pub fn save(&self) -> SavedNumbers {
        let values = |numbers: &BTreeMap<String, LimitBinding>| numbers.values().copied().collect();
        SavedNumbers { own: self.own, plans: values(&self.plans), overrides: values(&self.overrides) }
    }

    pub fn restore(saved: SavedNumbers, limit: &Limit) -> Self {
        let plans = limit.plans.iter().flat_map(|plans| plans.quotas.keys());
        Self {
            own: saved.own,
            plans: plans.cloned().zip(saved.plans).collect(),
            overrides: limit.overrides.keys().cloned().zip(saved.overrides).collect(),
        }
    }
}
