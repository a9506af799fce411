//! Bounds what the loads of a scenario come to together, surges included: what a machine can rehearse.

use std::{collections::BTreeMap, time::Duration};

use portolan_model::{Rate, Ratio, RegionId};

use crate::{
    ClientLoad, ScenarioFault, Start, Step,
    fault::{Report, Span},
    tree::Node,
};

/// Requests a second of all loads together.
pub(super) const MAX_RATE: u32 = 1_000_000;

/// Users of all loads together.
pub(super) const MAX_USERS: u64 = 1_000_000;

/// What to do about a load that is too large.
pub(super) const REMEDY: &str = "rehearse a smaller limit with a smaller load: both scale";

/// What the loads that were read so far come to.
#[derive(Default)]
pub(super) struct Total {
    rate: f64,
    users: u64,
}

impl Total {
    /// Adds a load of so many requests; notes the one that makes them too many.
    pub fn add_rate(&mut self, node: &Node, rate: Rate, report: &mut Report<'_>) {
        let fitted = self.rate <= f64::from(MAX_RATE);
        self.rate += per_second(rate);
        if fitted && self.rate > f64::from(MAX_RATE) {
            let message = format!("with {} the loads together send more than {MAX_RATE}/s", node.quoted());
            report.fault(node.at, message, REMEDY.to_owned());
        }
    }

    /// Adds a load of so many users; notes the one that makes them too many.
    pub fn add_users(&mut self, node: &Node, users: u64, report: &mut Report<'_>) {
        let fitted = self.users <= MAX_USERS;
        self.users = self.users.saturating_add(users);
        if fitted && self.users > MAX_USERS {
            let message = format!("with {} the loads together have more than {MAX_USERS} users", node.quoted());
            report.fault(node.at, message, "let fewer users send more each".to_owned());
        }
    }
}

/// A surge, with the place of its factor.
pub(super) struct Surge {
    at: Span,
    /// Nothing for one that waits for a condition: it may come at any time.
    begins: Option<Duration>,
    ends: Option<Duration>,
    regions: Vec<RegionId>,
    factor: Ratio,
}

impl Surge {
    /// The surge of a step whose factor stands at `at`; nothing for other steps.
    pub fn of(step: &Step, at: Span) -> Option<Self> {
        let crate::Action::Fault(ScenarioFault::Surge { regions, factor }) = &step.action else { return None };
        let begins = match step.start {
            Start::At(at) => Some(at),
            Start::When { .. } => None,
        };
        let ends = begins.zip(step.duration).map(|(begins, lasting)| begins + lasting);
        Some(Self { at, begins, ends, regions: regions.clone(), factor: *factor })
    }

    /// The most that it may multiply the load of a region by when `other` begins.
    fn factor_at(&self, other: &Self, region: &RegionId) -> f64 {
        let concerns = self.regions.is_empty() || self.regions.contains(region);
        let over = |at: Duration| self.ends.is_some_and(|ends| ends <= at);
        let factor = f64::from(self.factor.parts()) / f64::from(Ratio::ONE.parts());
        match (self.begins, other.begins) {
            _ if !concerns => 1.0,
            (Some(begins), Some(at)) if begins > at || over(at) => 1.0,
            (Some(_), Some(_)) => factor,
            (None, _) | (_, None) => factor.max(1.0),
        }
    }
}

/// Notes each surge with which the loads together are too much.
pub(super) fn check(clients: &[ClientLoad], surges: &[Surge], report: &mut Report<'_>) {
    let mut rates: BTreeMap<&RegionId, f64> = BTreeMap::new();
    for load in clients {
        *rates.entry(&load.region).or_default() += per_second(load.rate);
    }
    let mut told: Option<Span> = None;
    for surge in surges {
        let factor = |region| surges.iter().map(|other| other.factor_at(surge, region)).product::<f64>();
        let rate: f64 = rates.iter().map(|(region, rate)| rate * factor(region)).sum();
        if rate > f64::from(MAX_RATE) && told != Some(surge.at) {
            told = Some(surge.at);
            let message = format!("with this surge the loads together send {rate:.0}/s, more than {MAX_RATE}/s");
            report.fault(surge.at, message, REMEDY.to_owned());
        }
    }
}

fn per_second(rate: Rate) -> f64 {
    rate.count as f64 / rate.per.as_secs_f64()
}
