//! Counts what every limit admitted and refused from the verdicts alone, by the slot that the gateway charged, and says
//! when a slot admits more than its policy allows. Never asks the ledger: that cannot see two owners of one cell.

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Algorithm, Limit, LimitExpectation, LimitId, RegionMap, Scenario};
use portolan_limits::{Charge, Denial, Key};
use portolan_model::{Name, Timestamp};
use tokio::time::Duration;

use crate::{
    bound,
    outcome::{LimitFigures, Refusals, RegionUse},
    quotas::Quotas,
    slots::{Slot, Slots, Sums, Tank},
};

/// Counters that remember what each region admitted, per limit: the first that were seen, which the busiest is among.
const WATCHED: u32 = 8;

/// All limits of a run.
pub struct Tally {
    map: Arc<RegionMap>,
    /// Nodes of the largest region.
    nodes: u32,
    expected: Vec<LimitExpectation>,
    limits: Vec<LimitTally>,
    names: BTreeMap<Name, usize>,
    counters: Vec<Counter>,
    index: BTreeMap<(LimitId, String), u32>,
    /// What is in force where.
    pub quotas: Quotas,
}

/// One limit, all keys together.
pub struct LimitTally {
    /// Its name.
    pub name: Name,
    /// As the newest revision has it that was charged.
    pub limit: Arc<Limit>,
    /// What each region admitted and refused, by place.
    pub regions: Vec<RegionUse>,
    /// Requests decided.
    decided: u64,
    /// Requests that waited, and how long together.
    waited: u64,
    waits: Duration,
    /// Over all closed slots, and over those that each expectation asks for.
    sums: Sums,
    expected: Vec<(usize, Sums)>,
    counters: u32,
}

/// One key of one limit.
struct Counter {
    limit: usize,
    /// What the gateway counts it by.
    of: (LimitId, Key),
    subject: String,
    slots: Slots,
    demand: u64,
    /// Of a token bucket: what an exact one would hold.
    tank: Option<Tank>,
    /// Of a concurrency limit: what is under way.
    live: u64,
    watched: bool,
    /// The last limit and quota with their bound.
    bound: Option<(Arc<Limit>, u64, u64)>,
}

impl Counter {
    fn bound_of(&mut self, limit: &Arc<Limit>, quota: u64, map: &RegionMap, nodes: u32) -> u64 {
        if let Some((of, with, bound)) = &self.bound
            && Arc::ptr_eq(of, limit)
            && *with == quota
        {
            return *bound;
        }
        let bound = bound::of_slot(limit, quota, map, nodes);
        self.bound = Some((Arc::clone(limit), quota, bound));
        bound
    }
}

/// Where and when a request was decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Place of the region.
    pub place: usize,
    /// When the scenario began.
    pub zero: Timestamp,
    /// Time of the scenario.
    pub at: Timestamp,
}

/// Why a request was refused, as the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 429.
    Limited,
    /// 503: our own state refused.
    Degraded,
    /// 503: nothing was decided in time.
    Undecided,
}

impl Tally {
    /// Counts for these regions, and for what the scenario expects of limits.
    pub fn new(map: &Arc<RegionMap>, scenario: &Scenario) -> Self {
        let nodes = map.ids().iter().map(|id| scenario.nodes_in(id));
        Self {
            map: Arc::clone(map),
            nodes: nodes.max().unwrap_or(1),
            expected: scenario.expect.limits.clone(),
            limits: Vec::new(),
            names: BTreeMap::new(),
            counters: Vec::new(),
            index: BTreeMap::new(),
            quotas: Quotas::default(),
        }
    }

    /// Where a limit counts what `subject` asks for.
    pub fn counter(&mut self, limit: &Arc<Limit>, (id, key): (LimitId, Key), subject: String) -> u32 {
        let at = self.limit(limit);
        if let Some(&counter) = self.index.get(&(id, subject.clone())) {
            return counter;
        }
        let of_limit = &mut self.limits[at];
        of_limit.counters += 1;
        let watched = of_limit.counters <= WATCHED;
        let counter = Counter {
            limit: at,
            of: (id, key),
            subject: subject.clone(),
            slots: Slots::default(),
            demand: 0,
            tank: None,
            live: 0,
            watched,
            bound: None,
        };
        let number = u32::try_from(self.counters.len()).expect("no run has so many keys");
        self.counters.push(counter);
        self.index.insert((id, subject), number);
        number
    }

    fn limit(&mut self, limit: &Arc<Limit>) -> usize {
        if let Some(&at) = self.names.get(&limit.name) {
            if !Arc::ptr_eq(&self.limits[at].limit, limit) {
                self.limits[at].limit = Arc::clone(limit);
            }
            return at;
        }
        let asked = self.expected.iter().enumerate().filter(|(_, expected)| expected.limit == limit.name);
        self.limits.push(LimitTally {
            name: limit.name.clone(),
            limit: Arc::clone(limit),
            regions: vec![RegionUse::default(); self.map.ids().len()],
            decided: 0,
            waited: 0,
            waits: Duration::ZERO,
            sums: Sums::default(),
            expected: asked.map(|(at, _)| (at, Sums::default())).collect(),
            counters: 0,
        });
        self.names.insert(limit.name.clone(), self.limits.len() - 1);
        self.limits.len() - 1
    }

    /// Counts an allowed request of a limit of `quota`; returns what is wrong with it, if anything is.
    pub fn admit(&mut self, counter: u32, charge: &Charge, quota: u64, seen: Seen) -> Option<String> {
        let Seen { place, zero, at } = seen;
        let counter = &mut self.counters[counter as usize];
        let limit = &mut self.limits[counter.limit];
        if charge.shadow_refused {
            return None;
        }
        let cost = u64::from(charge.cost);
        limit.regions[place].admitted += cost;
        limit.decided += 1;
        counter.demand += cost;
        let at_ms = at.as_nanos() / 1_000_000;
        let (slot, bound, whole) = match &limit.limit.algorithm {
            Algorithm::TokenBucket { rate, burst } => {
                let tank = counter.tank.get_or_insert_with(|| Tank::full(*burst));
                if !tank.take(cost, *rate, *burst, at) {
                    return Some(format!(
                        "limit `{}` admitted more for {} than {burst} at once and {rate} after",
                        limit.name, counter.subject
                    ));
                }
                (at_ms / 1000, bound::of_second(*rate, *burst), bound::dripped(*rate))
            }
            Algorithm::Concurrency { .. } => {
                counter.live += cost;
                (at_ms / 1000, counter.bound_of(&limit.limit, quota, &self.map, self.nodes), quota)
            }
            _ => (charge.slot, counter.bound_of(&limit.limit, quota, &self.map, self.nodes), quota),
        };
        let begins = begin(&limit.limit, slot, zero);
        let closing = counter.slots.at(slot, begins, at_ms, |closed| limit.close(closed, &self.expected));
        closing.demand += cost;
        // While a limit changes, the larger of both quotas holds.
        closing.quota = closing.quota.max(whole);
        closing.bound = closing.bound.max(bound);
        if matches!(limit.limit.algorithm, Algorithm::Concurrency { .. }) {
            closing.admitted = closing.admitted.max(counter.live);
        } else {
            closing.admitted += cost;
        }
        if counter.watched {
            closing.by_region.resize(limit.regions.len(), 0);
            closing.by_region[place] += cost;
        }
        if closing.admitted > closing.bound && !matches!(limit.limit.algorithm, Algorithm::TokenBucket { .. }) {
            // Rights of this slot may have been lent in the one before, under what was in force then.
            let quota = self.quotas.largest(counter.of.0, begins.saturating_sub(limit.window_ms()));
            closing.bound = closing.bound.max(bound::of_slot(&limit.limit, quota, &self.map, self.nodes));
        }
        let told = std::mem::replace(&mut closing.told, closing.admitted > closing.bound);
        (closing.told && !told).then(|| {
            format!(
                "limit `{}` admitted {} for {} in slot {slot}, at most {} may be",
                limit.name, closing.admitted, counter.subject, closing.bound
            )
        })
    }

    /// Counts a refused request at the limit that refused it.
    pub fn refuse(&mut self, counter: u32, denial: &Denial, why: Refusal, cost: u64, seen: Seen) {
        let Seen { place, zero, at } = seen;
        let counter = &mut self.counters[counter as usize];
        let limit = &mut self.limits[counter.limit];
        let refused = &mut limit.regions[place].refused;
        match why {
            Refusal::Limited => refused.limited += cost,
            Refusal::Degraded => refused.degraded += cost,
            Refusal::Undecided => refused.undecided += cost,
        }
        limit.decided += 1;
        counter.demand += cost;
        // Without a quota there is no slot: the limit is not known to the node.
        if denial.quota == 0 {
            return;
        }
        let at_ms = at.as_nanos() / 1_000_000;
        let (slot, bound, quota) = match &limit.limit.algorithm {
            Algorithm::TokenBucket { rate, burst } => {
                (at_ms / 1000, bound::of_second(*rate, *burst), bound::dripped(*rate))
            }
            Algorithm::Concurrency { .. } => {
                (at_ms / 1000, counter.bound_of(&limit.limit, denial.quota, &self.map, self.nodes), denial.quota)
            }
            _ => (denial.slot, counter.bound_of(&limit.limit, denial.quota, &self.map, self.nodes), denial.quota),
        };
        let begins = begin(&limit.limit, slot, zero);
        let closing = counter.slots.at(slot, begins, at_ms, |closed| limit.close(closed, &self.expected));
        closing.demand += cost;
        closing.quota = closing.quota.max(quota);
        closing.bound = closing.bound.max(bound);
    }

    /// Counts the end of a request that a concurrency limit counts.
    pub fn release(&mut self, counter: u32, cost: u64) {
        let counter = &mut self.counters[counter as usize];
        counter.live = counter.live.saturating_sub(cost);
    }

    /// Counts a request that waited before it was decided.
    pub fn waited(&mut self, counter: u32, wait: Duration) {
        let limit = &mut self.limits[self.counters[counter as usize].limit];
        limit.waited += 1;
        limit.waits += wait;
    }

    /// Limits in the order in which they were charged first.
    pub fn limits(&self) -> &[LimitTally] {
        &self.limits
    }

    /// The limit of that name.
    pub fn of_limit(&self, name: &Name) -> Option<&LimitTally> {
        self.names.get(name).map(|&at| &self.limits[at])
    }

    /// The key of a limit that was asked most, of those whose slots are kept.
    pub fn busiest(&self, limit: usize) -> Option<u32> {
        let of_limit =
            self.counters.iter().enumerate().filter(|(_, counter)| counter.limit == limit && counter.watched);
        of_limit.max_by_key(|(_, counter)| counter.demand).and_then(|(at, _)| u32::try_from(at).ok())
    }

    /// What the gateway counts a key by.
    pub fn key_of(&self, counter: u32) -> (LimitId, Key) {
        self.counters[counter as usize].of
    }

    /// A key in words, and its slots.
    pub fn slots_of(&self, counter: u32) -> (&str, impl Iterator<Item = &Slot>) {
        let counter = &self.counters[counter as usize];
        (&counter.subject, counter.slots.kept())
    }

    /// Closes every slot: nothing more will be charged.
    pub fn close(&mut self) {
        for counter in &mut self.counters {
            let limit = &mut self.limits[counter.limit];
            counter.slots.kept().for_each(|slot| limit.close(slot, &self.expected));
        }
    }

    /// Figures of every limit that was asked.
    pub fn figures(&self, regions: &[String]) -> BTreeMap<String, LimitFigures> {
        self.limits.iter().map(|limit| (limit.name.to_string(), limit.figures(regions))).collect()
    }

    /// What the expectation at `at` of the scenario's list asks about: the limit with the sums over its slots.
    pub fn expected(&self, at: usize) -> Option<(&LimitTally, &Sums)> {
        let limit = self.of_limit(&self.expected[at].limit)?;
        let (_, sums) = limit.expected.iter().find(|(number, _)| *number == at)?;
        Some((limit, sums))
    }
}

impl LimitTally {
    /// Units refused, over all regions.
    pub fn refused(&self) -> Refusals {
        let add = |sum: Refusals, region: &RegionUse| Refusals {
            limited: sum.limited + region.refused.limited,
            degraded: sum.degraded + region.refused.degraded,
            undecided: sum.undecided + region.refused.undecided,
        };
        self.regions.iter().fold(Refusals::default(), add)
    }

    /// Units admitted, over all regions.
    pub fn admitted(&self) -> u64 {
        self.regions.iter().map(|region| region.admitted).sum()
    }

    /// Requests that waited, and all that were decided.
    pub fn waits(&self) -> (u64, u64) {
        (self.waited, self.decided)
    }

    fn close(&mut self, slot: &Slot, expected: &[LimitExpectation]) {
        let window = self.window_ms();
        self.sums.add(slot);
        for (at, sums) in &mut self.expected {
            let LimitExpectation { from, until, .. } = &expected[*at];
            let begun = from.is_zero() || slot.begins_ms >= millis(*from);
            let until = until.map_or(i64::MAX, millis);
            if begun && slot.begins_ms.saturating_add(window) <= until {
                sums.add(slot);
            }
        }
    }

    fn window_ms(&self) -> i64 {
        millis(self.limit.window())
    }

    fn figures(&self, regions: &[String]) -> LimitFigures {
        let refused = self.refused();
        let admitted = self.admitted();
        let means = |total: u64, count: u64| total.checked_div(count).unwrap_or_default();
        LimitFigures {
            quota: self.sums.quota,
            bound: self.sums.bound,
            most_admitted: self.sums.most_admitted,
            slots: self.sums.slots,
            window_ms: self.window_ms().unsigned_abs(),
            demanded: admitted + refused.limited + refused.degraded + refused.undecided,
            admitted,
            refused,
            over_mean_ppm: self.sums.over_mean_ppm(),
            over_most_ppm: self.sums.over_most_ppm,
            false_rejects_ppm: self.sums.false_rejects_ppm(),
            false_rejects_most_ppm: self.sums.false_rejects_most_ppm,
            whole_slots: self.sums.whole_slots,
            waited: self.waited,
            wait_mean_us: means(u64::try_from(self.waits.as_micros()).unwrap_or(u64::MAX), self.waited),
            by_region: regions.iter().cloned().zip(self.regions.iter().copied()).collect(),
        }
    }
}

/// When a slot began, in milliseconds of the scenario. Slots of buckets and concurrency limits are seconds of it.
fn begin(limit: &Limit, slot: u64, zero: Timestamp) -> i64 {
    let window = i64::try_from(limit.window().as_millis()).unwrap_or(i64::MAX);
    match limit.algorithm {
        Algorithm::TokenBucket { .. } | Algorithm::Concurrency { .. } => {
            i64::try_from(slot).unwrap_or(i64::MAX).saturating_mul(1000)
        }
        _ => {
            let civil = i64::try_from(slot).unwrap_or(i64::MAX).saturating_mul(window);
            let begin = i64::try_from(crate::clock::BEGIN.as_unix_millis()).unwrap_or(i64::MAX);
            civil.saturating_sub(begin).saturating_sub(i64::try_from(zero.as_nanos() / 1_000_000).unwrap_or(i64::MAX))
        }
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}
