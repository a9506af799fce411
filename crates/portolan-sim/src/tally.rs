//! Counts what every limit admitted and refused from the verdicts alone, by the slot that the gateway charged, and says
//! when a slot admits more than its policy allows. Never asks the ledger: that cannot see two owners of one cell.

mod limit;
mod live;
mod room;
mod rules;

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Algorithm, Limit, LimitExpectation, LimitId, RegionMap, SLOT_LEAD, Scenario, Within};
use portolan_limits::{Charge, Denial, Key};
use portolan_model::{Name, Timestamp};
use prefetch_index::prefetch_index;
use tokio::time::Duration;

pub use self::limit::LimitTally;
use self::{
    live::Live,
    room::Asked,
    rules::{Part, Rules},
};
use crate::{
    bound::{self, Bucket, Most},
    civil::{Moment, SKEW_MS, millis},
    fences::Fences,
    outcome::{LimitFigures, RegionUse},
    quotas::Quotas,
    recent::Recent,
    slots::{Slot, Slots, Sums, Tank},
    splits::Splits,
    trouble::{State, Trouble},
};

/// Counters that remember what each region admitted, per limit: the first that were seen, which the busiest is among.
const WATCHED: u32 = 8;

/// All limits of a run.
pub struct Tally {
    /// What they are held by.
    pub truth: Truth,
    /// How long the scenario lasts.
    length_ms: i64,
    expected: Vec<LimitExpectation>,
    limits: Vec<LimitTally>,
    names: BTreeMap<Name, usize>,
    rules: Vec<Rules>,
    ids: BTreeMap<LimitId, usize>,
    counters: Vec<Counter>,
    index: BTreeMap<(LimitId, String), u32>,
}

/// What is true of the fleet, whatever its nodes think.
pub struct Truth {
    map: Arc<RegionMap>,
    /// Nodes of the largest region.
    nodes: u32,
    /// What is in force where.
    pub quotas: Quotas,
    /// Regions that operators have given up.
    pub fences: Fences,
    /// How limits are split.
    pub splits: Splits,
    /// Since when the fleet is well.
    pub trouble: Trouble,
    /// When lenders forgot what they had lent, in milliseconds of the scenario and in civil time.
    lost_loans: Vec<(i64, Moment)>,
    /// When some node lost its disk last, in milliseconds of the scenario.
    lost_disk_ms: Option<i64>,
    /// Whether nodes have less room than there are keys, or packets between those of a region are lost or late: then a request
    /// may find no answer in time.
    is_short: bool,
}

impl Truth {
    /// Notes that a node has lost its disk.
    pub fn note_lost_disk(&mut self, at_ms: i64) {
        self.lost_disk_ms = Some(at_ms);
    }

    fn lost_disk_since(&self, since_ms: i64) -> bool {
        self.lost_disk_ms.is_some_and(|at_ms| at_ms >= since_ms)
    }

    /// What a slot may admit by what was in force when its rights were lent, which may be in the one before; of a sliding
    /// window what came of them counts in the next one, too.
    fn bound_of_late(&self, rules: &Rules, part: &Part, state: State) -> u64 {
        let lasts = rules.window_ms().saturating_mul(if rules.slides() { 2 } else { 1 });
        let quota = self.quotas.largest(rules.id, part.begins_ms.saturating_sub(lasts)).count;
        let forgot = |(at_ms, moment): &(i64, Moment)| moment.allows(&rules.windows, part.slot, *at_ms);
        let lends = rules.limit.lender.is_some();
        let failovers = if lends { self.lost_loans.iter().filter(|lost| forgot(lost)).count() } else { 0 };
        Most::of(&rules.limit, quota, &self.map, self.nodes).after_failovers(failovers, state)
    }
}

/// One key of one limit.
struct Counter {
    limit: usize,
    /// Place of what it is held by.
    rules: usize,
    /// What the gateway counts it by.
    of: (LimitId, Key),
    subject: String,
    slots: Slots,
    /// Of a limit with windows: what it admitted in the last one.
    recent: Recent,
    demand: u64,
    /// Of a token bucket: what an exact one would hold.
    tank: Option<Tank>,
    /// Of a concurrency limit: what is under way, and what would be.
    live: Live,
    /// What each region asks for.
    asked: Asked,
    watched: bool,
    /// The last limit and quota with the most that a slot may admit.
    most: Option<(Arc<Limit>, u64, Most)>,
}

impl Counter {
    fn most_of(&mut self, of: &mut Rules, quota: u64, truth: &Truth) -> Most {
        if let Some((limit, with, most)) = &self.most
            && Arc::ptr_eq(limit, &of.limit)
            && *with == quota
        {
            return *most;
        }
        let most = || Most::of(&of.limit, quota, &truth.map, truth.nodes);
        let most = *of.most.entry(quota).or_insert_with(most);
        self.most = Some((Arc::clone(&of.limit), quota, most));
        most
    }

    /// Counts what is asked for; returns when the part of the run began that it is asked for in.
    fn ask(&mut self, rules: &mut Rules, cost: u64, seen: Seen, truth: &Truth) -> i64 {
        let (part, begins_ms) = rules.present(seen);
        let after_ms = truth.trouble.last_unrest_ms();
        self.asked.ask(part, after_ms, seen.place, cost);
        rules.asked.ask(part, after_ms, seen.place, cost);
        begins_ms
    }

    /// What is wrong with a charge whatever was charged to its slot: a bucket does not hold it, or no clock has read it.
    fn refuse_at_sight(&mut self, rules: &Rules, charged: Charged, seen: Seen, truth: &Truth) -> Option<String> {
        let Rules { limit, .. } = rules;
        let (name, subject) = (&limit.name, &self.subject);
        match &limit.algorithm {
            Algorithm::TokenBucket { .. } if truth.fences.excuse(seen.place, seen.at_ms()) => None,
            Algorithm::TokenBucket { .. } => {
                let state = truth.trouble.state(limit, seen.at_ms());
                // A node that has not heard of a change spends what another one grants it that has, and a second's rate is
                // lent in the second before.
                let second_before = seen.at_ms() / 1000 * 1000 - 1000;
                let since_ms = seen.at_ms().saturating_sub(rules.window_ms()).min(second_before);
                let quota = truth.quotas.largest(rules.id, since_ms);
                let held = bound::bucket(limit, quota, &truth.map, state);
                let tank = self.tank.get_or_insert_with(|| Tank::full(held));
                let stated = truth.fences.is_empty() && !rules.was_resplit;
                let part = || bound::part(limit, quota, &truth.map, seen.place, stated);
                tank.take_clock(seen.place, seen.moment.ahead_ms(), part);
                let Bucket { rate, burst } = held;
                let detail =
                    || format!("limit `{name}` admitted more for {subject} than {burst} at once and {rate} after");
                (!tank.take(charged.cost, held, seen.at)).then(detail)
            }
            Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. } => {
                let Charged { slot, .. } = charged;
                let detail = || format!("limit `{name}` charged slot {slot}, which no clock of the fleet has read");
                (!seen.moment.allows(&rules.windows, slot, seen.at_ms())).then(detail)
            }
            Algorithm::Concurrency { .. } => None,
        }
    }
}

/// What a request was charged.
#[derive(Clone, Copy, Debug)]
pub struct Charged {
    /// The slot.
    pub slot: u64,
    /// Units.
    pub cost: u64,
    /// What the limit counts.
    pub quota: u64,
}

impl Charged {
    /// By a limit of `quota`.
    pub fn of(charge: &Charge, quota: u64) -> Self {
        Self { slot: charge.slot, cost: u64::from(charge.cost), quota }
    }
}

/// Where and when a request was decided.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Place in the list of hosts.
    pub host: usize,
    /// Place of the region.
    pub place: usize,
    /// Time of the scenario.
    pub at: Timestamp,
    /// The same in civil time, as the region may take it.
    pub moment: Moment,
}

impl Seen {
    fn at_ms(&self) -> i64 {
        i64::try_from(self.at.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
    }
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

/// A request that was refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// Units.
    pub cost: u64,
    /// How long it would have been under way.
    pub lasting: Duration,
}

impl Tally {
    /// Counts for these regions, and for what the scenario expects of limits.
    pub fn new(map: &Arc<RegionMap>, scenario: &Scenario) -> Self {
        let nodes = map.ids().iter().map(|id| scenario.nodes_in(id));
        Self {
            truth: Truth {
                map: Arc::clone(map),
                nodes: nodes.max().unwrap_or(1),
                quotas: Quotas::default(),
                fences: Fences::default(),
                splits: Splits::default(),
                trouble: Trouble::new(map, scenario),
                lost_loans: Vec::new(),
                lost_disk_ms: None,
                is_short: scenario.limit_keys.is_some() || scenario.within != Within::default(),
            },
            length_ms: millis(scenario.length),
            expected: scenario.expect.limits.clone(),
            limits: Vec::new(),
            names: BTreeMap::new(),
            rules: Vec::new(),
            ids: BTreeMap::new(),
            counters: Vec::new(),
            index: BTreeMap::new(),
        }
    }

    /// Where a limit counts what `subject` asks for.
    pub fn counter(&mut self, limit: &Arc<Limit>, (id, key): (LimitId, Key), subject: String) -> u32 {
        let (at, rules) = (self.limit(limit), self.rules(id, limit));
        if let Some(&counter) = self.index.get(&(id, subject.clone())) {
            return counter;
        }
        let of_limit = &mut self.limits[at];
        of_limit.counters += 1;
        let watched = of_limit.counters <= WATCHED;
        let counter = Counter {
            limit: at,
            rules,
            of: (id, key),
            subject: subject.clone(),
            slots: Slots::new(watched),
            recent: Recent::default(),
            demand: 0,
            tank: None,
            live: Live::default(),
            asked: Asked::default(),
            watched,
            most: None,
        };
        let number = u32::try_from(self.counters.len()).expect("no run has so many keys");
        self.counters.push(counter);
        self.index.insert((id, subject), number);
        number
    }

    fn limit(&mut self, limit: &Arc<Limit>) -> usize {
        if let Some(&at) = self.names.get(&limit.name) {
            self.limits[at].limit = Arc::clone(limit);
            return at;
        }
        let asked = self.expected.iter().enumerate().filter(|(_, expected)| expected.limit == limit.name);
        self.limits.push(LimitTally {
            name: limit.name.clone(),
            limit: Arc::clone(limit),
            length_ms: self.length_ms,
            regions: vec![RegionUse::default(); self.truth.map.ids().len()],
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

    fn rules(&mut self, id: LimitId, limit: &Arc<Limit>) -> usize {
        let at = *self.ids.entry(id).or_insert(self.rules.len());
        match self.rules.get_mut(at) {
            Some(known) => known.follow(limit),
            None => self.rules.push(Rules::new(id, limit, self.truth.map.ids().len())),
        }
        at
    }

    /// Whether a limit has been split in this run as its document says, and not otherwise.
    pub fn is_split_as_written(&self, name: &Name) -> bool {
        let resplit = |rules: &Rules| rules.was_resplit && rules.limit.name == *name;
        self.truth.fences.is_empty() && !self.rules.iter().any(resplit)
    }

    /// Has the processor fetch a counter.
    pub fn prefetch(&self, counter: u32) {
        prefetch_index(&self.counters, counter as usize);
    }

    /// Counts an allowed request; returns what is wrong with it, if anything is.
    pub fn admit(&mut self, counter: u32, charged: Charged, seen: Seen) -> Option<String> {
        let Charged { slot, cost, quota } = charged;
        let Self { counters, limits, rules, truth, expected, .. } = self;
        let truth = &*truth;
        let Truth { fences, trouble, .. } = truth;
        let counter = &mut counters[counter as usize];
        let (limit, rules) = (&mut limits[counter.limit], &mut rules[counter.rules]);
        limit.regions[seen.place].admitted += cost;
        limit.decided += 1;
        counter.demand += cost;
        counter.ask(rules, cost, seen, truth);
        if let Some(wrong) = counter.refuse_at_sight(rules, charged, seen, truth) {
            return Some(wrong);
        }
        let part = rules.part(slot, quota, seen);
        let most = counter.most_of(rules, quota, truth);
        let before = if rules.slides() { counter.slots.spent(part.slot.wrapping_sub(1)) } else { 0 };
        // No slot may admit less than in calm times: until a span has that much its slots need not be looked at.
        let much = counter.recent.units() + cost > most.calm;
        let about = if much { counter.slots.bound_about(part.slot) } else { 0 };
        let lasts = rules.part_ms();
        let close = |closed: &Slot| limit.close(closed, lasts, expected);
        let closing = counter.slots.at(part.slot, part.begins_ms, seen.at_ms(), close);
        let state = trouble.state(&rules.limit, closing.since_ms());
        let mut in_span = 0;
        if matches!(rules.limit.algorithm, Algorithm::Concurrency { .. }) {
            counter.live.begin(seen.host, seen.place, cost);
            counter.asked.at_one_time(seen.place, cost, counter.live.wanted_in(seen.place));
            closing.ask_at_one_time(counter.live.wanted(seen.at), part.quota, most.in_state(state));
            // What it had begun goes on when it hears of its fence.
            let since_ms = part.begins_ms - trouble.lasting_ms();
            let excused = counter.live.units(|place| fences.excuse(place, since_ms));
            closing.take_live(counter.live.units(|_| true), excused);
        } else {
            closing.ask(cost, part.quota, most.in_state(state));
            let excused = if fences.excuse(seen.place, part.begins_ms) { cost } else { 0 };
            closing.admitted += cost;
            closing.excused += excused;
            in_span = counter.recent.add(cost - excused, seen.at_ms(), rules.window_ms() - SKEW_MS);
        }
        if counter.watched {
            closing.by_region.resize(limit.regions.len(), 0);
            let of_region = &mut closing.by_region[seen.place];
            *of_region = match rules.limit.algorithm {
                Algorithm::Concurrency { .. } => counter.live.units(|place| place == seen.place).max(*of_region),
                _ => *of_region + cost,
            };
        }
        if matches!(rules.limit.algorithm, Algorithm::TokenBucket { .. }) {
            return None;
        }
        closing.read_ms = closing.read_ms.max(seen.moment.reads_ms(seen.at_ms()));
        let estimate = rules.estimate(closing, before, seen.moment);
        if closing.spent().max(estimate) > closing.bound {
            closing.bound = closing.bound.max(truth.bound_of_late(rules, &part, state));
        }
        let slots = seen.moment.slots_in_a_span(rules.window_ms(), seen.at_ms());
        let found = Found {
            before,
            estimate,
            in_span,
            at_most_in_span: slots.map_or(u64::MAX, |slots| slots.saturating_mul(closing.bound.max(about))),
        };
        let wrong = found.wrong_with(closing, &counter.subject);
        let told = std::mem::replace(&mut closing.told, wrong.is_some());
        wrong.filter(|_| !told).map(|wrong| format!("limit `{}` admitted {wrong}", limit.name))
    }

    /// Notes that every lender forgets what it has lent, of slots to come, too.
    pub fn note_lost_loans(&mut self, at_ms: i64, moment: Moment) {
        self.truth.lost_loans.push((at_ms, moment.ahead_by(SLOT_LEAD)));
    }

    /// Counts a refused request at the limit that refused it; returns what is wrong with that, if anything is.
    pub fn refuse(&mut self, counter: u32, denial: &Denial, refused: Refused, seen: Seen) -> Option<String> {
        let Refused { why, cost, lasting } = refused;
        let counter = &mut self.counters[counter as usize];
        let limit = &mut self.limits[counter.limit];
        let refusals = &mut limit.regions[seen.place].refused;
        match why {
            Refusal::Limited => refusals.limited += cost,
            Refusal::Degraded => refusals.degraded += cost,
            Refusal::Undecided => refusals.undecided += cost,
        }
        limit.decided += 1;
        counter.demand += cost;
        // Without a quota there is no slot: the limit is not known to the node.
        if denial.quota == 0 {
            return None;
        }
        let rules = &mut self.rules[counter.rules];
        let begins_ms = counter.ask(rules, cost, seen, &self.truth);
        let part = rules.part(denial.slot, denial.quota, seen);
        let most = counter.most_of(rules, denial.quota, &self.truth);
        let lasts = rules.part_ms();
        let close = |closed: &Slot| limit.close(closed, lasts, &self.expected);
        let asked = counter.slots.at(part.slot, part.begins_ms, seen.at_ms(), close);
        let bound = most.in_state(self.truth.trouble.state(&rules.limit, asked.since_ms()));
        match rules.limit.algorithm {
            Algorithm::Concurrency { .. } => {
                let (wanted, there) = counter.live.refuse(seen.place, cost, seen.at + lasting, seen.at);
                asked.ask_at_one_time(wanted, part.quota, bound);
                counter.asked.at_one_time(seen.place, cost, there);
            }
            _ => asked.ask(cost, part.quota, bound),
        }
        let found = room::refuse(&mut counter.asked, rules, (denial.quota, cost), begins_ms, (seen, &self.truth))?;
        Some(found.words(&limit.name, &counter.subject, &self.truth.map.ids()[seen.place]))
    }

    /// Takes back what a request was charged that was allowed as `seen`: its outcome, at this moment, is one that the limit
    /// does not count. Sums over all verdicts keep it.
    pub fn refund(&mut self, counter: u32, charged: Charged, seen: Seen, now: Seen) {
        let Charged { slot, cost, quota } = charged;
        let counter = &mut self.counters[counter as usize];
        let rules = &self.rules[counter.rules];
        // What is under way ends, refunded or not; and a slot that is over by every clock takes nothing back.
        let holds = matches!(rules.limit.algorithm, Algorithm::Concurrency { .. });
        if holds || !now.moment.allows(&rules.windows, slot, now.at_ms()) {
            return;
        }
        if let Some(tank) = &mut counter.tank {
            tank.give_back(cost);
        }
        counter.slots.refund(rules.part(slot, quota, seen).slot, cost, seen.place);
        counter.recent.take_back(cost, seen.at_ms(), rules.window_ms() - SKEW_MS);
    }

    /// Counts the end of a request that a concurrency limit counts.
    pub fn release(&mut self, counter: u32, host: usize, cost: u64) {
        self.counters[counter as usize].live.end(host, cost);
    }

    /// Counts the end of all that is under way on a host whose process has died.
    pub fn end_all(&mut self, host: usize) {
        self.counters.iter_mut().for_each(|counter| counter.live.end_all(host));
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
            let open = counter.slots.kept().filter(|slot| !slot.counted);
            let lasts = self.rules[counter.rules].part_ms();
            open.for_each(|slot| limit.close(slot, lasts, &self.expected));
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

/// What a slot is held to beside what was admitted in it.
struct Found {
    /// Admitted in the slot before.
    before: u64,
    /// Of a sliding window: by its rule.
    estimate: u64,
    /// Admitted in a span of nearly a window, and what that may be.
    in_span: u64,
    at_most_in_span: u64,
}

impl Found {
    /// What is wrong, if anything is.
    fn wrong_with(&self, closing: &Slot, subject: &str) -> Option<String> {
        let Self { before, estimate, in_span, at_most_in_span } = self;
        let (Slot { slot, bound, .. }, admitted) = (closing, closing.spent());
        if admitted > *bound {
            Some(format!("{admitted} for {subject} in slot {slot}, at most {bound} may be"))
        } else if estimate > bound {
            Some(format!(
                "{admitted} for {subject} in slot {slot} after {before} in the one before: {estimate} by the rule of \
                 sliding windows, at most {bound} may be"
            ))
        } else if in_span > at_most_in_span {
            Some(format!(
                "{in_span} for {subject} in less than a window, the last in slot {slot}, at most {at_most_in_span} may be"
            ))
        } else {
            None
        }
    }
}

#[cfg(test)]
pub mod tests;
