//! The budgets of a limit: its own, one per plan, one per override. Each is counted apart, with its own quota, and all
//! are split alike between regions.

use super::binding::{LimitBinding, Numbers};
use crate::{Algorithm, Limit, SharePlan};

/// A budget with all that a region needs to keep to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budgeted<'a> {
    /// The limit it belongs to.
    pub limit: &'a Limit,
    /// Whose it is.
    pub consumers: Consumers<'a>,
    /// Which counters it has.
    pub binding: LimitBinding,
    /// How its quota is split between regions.
    pub shares: &'a SharePlan,
}

/// Who is counted in a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Consumers<'a> {
    /// Whoever has no other budget of the limit.
    All,
    /// Those of a plan.
    Plan(&'a str),
    /// This one, as [`crate::LimitKey::consumer`] reads it.
    One(&'a str),
}

impl Budgeted<'_> {
    /// How the budget is counted, with its own quota.
    pub fn algorithm(&self) -> Algorithm {
        let quota = match self.consumers {
            Consumers::All => None,
            Consumers::Plan(name) => self.limit.plans.as_ref().and_then(|plans| plans.quotas.get(name)),
            Consumers::One(name) => self.limit.overrides.get(name),
        };
        quota.map_or_else(|| self.limit.algorithm.clone(), |quota| self.limit.algorithm.with_quota(*quota))
    }
}

/// The budgets of `limit`, its own first.
pub(super) fn of_limit<'a>(
    limit: &'a Limit,
    numbers: &'a Numbers,
    shares: &'a SharePlan,
) -> impl Iterator<Item = Budgeted<'a>> {
    let plans = numbers.plans.iter().map(|(name, binding)| (Consumers::Plan(name), *binding));
    let overrides = numbers.overrides.iter().map(|(name, binding)| (Consumers::One(name), *binding));
    let all = std::iter::once((Consumers::All, numbers.own)).chain(plans).chain(overrides);
    all.map(move |(consumers, binding)| Budgeted { limit, consumers, binding, shares })
}
