//! What a limit asks of a request: which budget it is charged to, under which key, and how much.
//!
//! Decides between the budgets of a limit: an override for the consumer comes before the consumer's plan, the plan
//! before the limit's own quota. Each budget has a number of its own, so that one is never charged for another.

use std::sync::Arc;

use portolan_config::{Algorithm, Budget, Cost, Intent, Limit, LimitId, PlanSource, Route, Snapshot};
use portolan_limits::{Claim, Key, Limiter};
use portolan_model::Name;
use smallvec::SmallVec;

use crate::{
    Subject,
    key::{self, Parts},
};

/// One limit with the numbers of its budgets.
#[derive(Debug)]
pub struct Binding {
    /// The limit.
    pub limit: Arc<Limit>,
    own: LimitId,
    plans: Box<[(String, LimitId)]>,
    /// By the bytes of the consumer; sorted.
    overrides: Box<[Override]>,
    /// The part of the key that overrides go by.
    consumer: Option<usize>,
}

/// The budget of a single consumer.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Override {
    consumer: Box<[u8]>,
    limit: LimitId,
    /// As the document has it.
    text: String,
}

/// Why a budget is the one that is charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The limit's own quota.
    Own,
    /// The quota of a plan.
    Plan(String),
    /// The quota of a single consumer.
    Override(String),
}

/// A counter that a written key may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meant {
    /// Of which budget.
    pub limit: LimitId,
    /// Which counter of it.
    pub key: Key,
    /// Why this budget.
    pub tier: Tier,
    /// The route, where each route of the limit has a budget of its own.
    pub route: Option<Name>,
}

impl Binding {
    pub(crate) fn compile(limit: &Arc<Limit>, intent: &Intent) -> Self {
        let (numbers, consumer) = (&intent.limits, limit.key.consumer());
        let overridden = |text: &String| {
            let bytes = key::of_consumer(consumer?, text)?.as_bytes().into();
            Some(Override { consumer: bytes, limit: numbers.consumer(&limit.name, text)?.id, text: text.clone() })
        };
        let mut overrides: Vec<Override> = limit.overrides.keys().filter_map(overridden).collect();
        overrides.sort();
        let plans = limit.plans.iter().flat_map(|plans| plans.quotas.keys());
        let plans = plans.filter_map(|plan| Some((plan.clone(), numbers.plan(&limit.name, plan)?.id)));
        Self {
            own: numbers.own(&limit.name).map_or(UNBOUND, |binding| binding.id),
            plans: plans.collect(),
            overrides: overrides.into(),
            consumer: consumer.and_then(|consumer| limit.key.parts().iter().position(|part| part == consumer)),
            limit: Arc::clone(limit),
        }
    }

    /// Which of the limit's budgets has a number; `None` for none.
    pub(crate) fn tier(&self, limit: LimitId) -> Option<Tier> {
        let plan = || self.plans.iter().find(|(_, id)| *id == limit).map(|(plan, _)| Tier::Plan(plan.clone()));
        let consumer = || self.overrides.iter().find(|one| one.limit == limit).map(Override::tier);
        (limit == self.own).then_some(Tier::Own).or_else(plan).or_else(consumer)
    }

    /// How a budget is counted, with its own quota.
    pub fn algorithm_of(&self, tier: &Tier) -> Algorithm {
        let quota = match tier {
            Tier::Own => None,
            Tier::Plan(plan) => self.limit.plans.as_ref().and_then(|plans| plans.quotas.get(plan)),
            Tier::Override(consumer) => self.limit.overrides.get(consumer),
        };
        quota.map_or_else(|| self.limit.algorithm.clone(), |quota| self.limit.algorithm.with_quota(*quota))
    }

    /// What a request owes this limit.
    pub(crate) fn claim(&self, limiter: &Limiter, route: &Route, subject: &Subject<'_>) -> Claim {
        let parts = key::of_request(&self.limit.key, route, subject);
        let overridden = self.overridden(&parts).map(|one| one.limit);
        let limit = overridden.or_else(|| self.planned(subject)).unwrap_or(self.own);
        let route = (self.limit.per == Budget::Route).then_some(&route.name);
        Claim { limit, key: counter(limiter, limit, &parts, route), cost: self.cost(subject) }
    }

    /// A consumer that an override names, in words: of a header field, which may be a secret, only the beginning.
    pub fn shown_consumer(&self, consumer: &str) -> String {
        key::consumer_to_text(&self.limit.key, consumer)
    }

    /// The key of a request in words, for people.
    pub fn name_of(&self, route: &Route, subject: &Subject<'_>) -> String {
        key::to_text(&self.limit.key, &key::of_request(&self.limit.key, route, subject))
    }

    /// The counters that a person can mean by `written`; none when it is no key of this limit. Which plan a consumer is
    /// of stands in its requests alone, so the counters of all plans are among them, unless an override is in force. Ends
    /// after `most`: routes times plans may be very many.
    pub(crate) fn meant(&self, limiter: &Limiter, written: &str, snapshot: &Snapshot, most: usize) -> Vec<Meant> {
        let Some(parts) = key::of_text(&self.limit.key, written, snapshot) else { return Vec::new() };
        let tiers: Vec<(LimitId, Tier)> = match self.overridden(&parts) {
            Some(one) => vec![(one.limit, one.tier())],
            None => {
                let plans = self.plans.iter().map(|(plan, limit)| (*limit, Tier::Plan(plan.clone())));
                std::iter::once((self.own, Tier::Own)).chain(plans).collect()
            }
        };
        let naming = |route: &&Arc<Route>| route.limits.contains(&self.limit.name);
        let routes: Vec<Option<&Name>> = match self.limit.per {
            Budget::Limit => vec![None],
            Budget::Route => snapshot.routes.values().filter(naming).map(|route| Some(&route.name)).collect(),
        };
        let each = routes.into_iter().flat_map(|route| tiers.iter().map(move |tier| (route, tier)));
        let meant = each.map(|(route, (limit, tier))| {
            let key = counter(limiter, *limit, &parts, route);
            Meant { limit: *limit, key, tier: tier.clone(), route: route.cloned() }
        });
        meant.take(most).collect()
    }

    fn overridden(&self, parts: &Parts<'_>) -> Option<&Override> {
        let consumer = parts.get(self.consumer?)?.as_bytes();
        let at = self.overrides.binary_search_by(|one| (*one.consumer).cmp(consumer)).ok()?;
        Some(&self.overrides[at])
    }

    fn planned(&self, subject: &Subject<'_>) -> Option<LimitId> {
        let find = |plan: &[u8]| self.plans.iter().find(|(name, _)| name.as_bytes() == plan).map(|(_, limit)| *limit);
        match &self.limit.plans.as_ref()?.from {
            PlanSource::Claim(name) => find(subject.attributes.claim(name)?.as_bytes()),
            PlanSource::Header(name) => find(&subject.attributes.header(name)?),
        }
    }

    /// At least 1, whatever a header says: a request that costs nothing would be a way around the limit.
    fn cost(&self, subject: &Subject<'_>) -> u32 {
        match &self.limit.cost {
            Cost::Fixed(units) => *units,
            Cost::Header { name, default, most } => {
                let units = subject.attributes.header(name).and_then(|written| number(written.trim_ascii()));
                units.unwrap_or(*default).clamp(1, (*most).max(1))
            }
        }
    }
}

impl Override {
    fn tier(&self) -> Tier {
        Tier::Override(self.text.clone())
    }
}

/// A number of decimal digits; the largest there is for one that is larger.
fn number(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let add = |number: u32, digit: &u8| number.saturating_mul(10).saturating_add(u32::from(digit - b'0'));
    digits.then(|| text.iter().fold(0, add))
}

/// A budget per route is a counter per route: its name is a part of the key, beside those that are written.
fn counter(limiter: &Limiter, limit: LimitId, parts: &Parts<'_>, route: Option<&Name>) -> Key {
    let bytes: SmallVec<[&[u8]; 5]> =
        parts.iter().map(|part| part.as_bytes()).chain(route.map(|route| route.as_str().as_bytes())).collect();
    limiter.key(limit, &bytes)
}

/// Of a limit that an intent gave no number, which no command leaves behind: no limit has this number, so the route's
/// requests are refused rather than let pass.
pub(crate) const UNBOUND: LimitId = LimitId(u32::MAX);
