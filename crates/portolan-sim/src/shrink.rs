//! Cuts a failing scenario down to the least that still fails the same way: steps, loads, expectations, length, losses
//! within regions and small tables are left out as long as the failure stays; loads only where a rule broke, since an
//! expectation is about them. Delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
//! 2002).
//!
//! Never changes what is left: every step keeps its time.

use std::time::Duration;

use portolan_config::{Scenario, Within};

use crate::{
    Sources,
    outcome::{Invariant, Outcome, Verdict},
    run,
};

/// Runs that one search may take; what is found by then is the answer.
const MAX_RUNS: usize = 400;

/// A scenario that fails and has nothing left to leave out.
#[derive(Debug)]
pub struct Shrunk {
    /// What is left.
    pub scenario: Scenario,
    /// How it fails.
    pub outcome: Outcome,
    /// How often a scenario was run to find it.
    pub runs: usize,
}

/// How a run fails: what a smaller one must share with it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    Broken(Invariant),
    Missed(String),
}

impl Failure {
    /// The first failure of a run.
    fn of(outcome: &Outcome) -> Option<Self> {
        let broken = outcome.violations.first().map(|violation| Self::Broken(violation.invariant));
        broken.or_else(|| outcome.failed_expectations.first().map(|failed| Self::Missed(failed.expected.clone())))
    }

    fn shows_in(&self, outcome: &Outcome) -> bool {
        match self {
            Self::Broken(invariant) => outcome.violations.iter().any(|violation| violation.invariant == *invariant),
            Self::Missed(expected) => outcome.failed_expectations.iter().any(|failed| failed.expected == *expected),
        }
    }
}

/// Cuts down `scenario` under `seed`. `told` hears of every cut that holds. `None` when the run does not fail.
pub fn shrink(scenario: &Scenario, sources: &Sources, seed: u64, told: &mut dyn FnMut(&str)) -> Option<Shrunk> {
    let outcome = run(scenario, sources, seed);
    let failure = Failure::of(&outcome).filter(|_| outcome.verdict != Verdict::Pass)?;
    let mut search = Search { sources, seed, failure, best: Shrunk { scenario: scenario.clone(), outcome, runs: 1 } };
    loop {
        let before =
            (search.best.scenario.steps.len(), search.best.scenario.clients.len(), search.best.scenario.length);
        search.shorten();
        search.cut("step", |scenario| &mut scenario.steps, told);
        // Without load a share of requests says nothing.
        if matches!(search.failure, Failure::Broken(_)) {
            search.cut("load", |scenario| &mut scenario.clients, told);
        }
        let best = &search.best.scenario;
        if before == (best.steps.len(), best.clients.len(), best.length) || search.best.runs >= MAX_RUNS {
            break;
        }
    }
    search.mend("what is lost within a region", |scenario| scenario.within = Within::default(), told);
    search.mend("tables that are too small", |scenario| scenario.limit_keys = None, told);
    search.forget_expectations();
    Some(search.best)
}

struct Search<'a> {
    sources: &'a Sources,
    seed: u64,
    failure: Failure,
    best: Shrunk,
}

impl Search<'_> {
    /// Keeps a smaller scenario that fails the same way.
    fn keeps(&mut self, scenario: Scenario) -> bool {
        if self.best.runs >= MAX_RUNS {
            return false;
        }
        let outcome = run(&scenario, self.sources, self.seed);
        let fails = self.failure.shows_in(&outcome);
        let runs = self.best.runs + 1;
        if fails {
            self.best = Shrunk { scenario, outcome, runs };
        }
        self.best.runs = runs;
        fails
    }

    /// Leaves out parts of a list: halves first, then smaller pieces, one by one at last.
    fn cut<T: Clone>(&mut self, what: &str, list: fn(&mut Scenario) -> &mut Vec<T>, told: &mut dyn FnMut(&str)) {
        let mut piece = list(&mut self.best.scenario.clone()).len().div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < list(&mut self.best.scenario.clone()).len() {
                let mut smaller = self.best.scenario.clone();
                let items = list(&mut smaller);
                let end = (at + piece).min(items.len());
                items.drain(at..end);
                let left = items.len();
                if self.keeps(smaller) {
                    let plural = if left == 1 { "" } else { "s" };
                    told(&format!("fails with {left} {what}{plural} as well"));
                } else {
                    at += piece;
                }
            }
            piece = if piece == 1 { 0 } else { piece.div_ceil(2) };
        }
    }

    /// Takes back what makes the world worse from the start, if the scenario has it.
    fn mend(&mut self, what: &str, mend: fn(&mut Scenario), told: &mut dyn FnMut(&str)) {
        let mut better = self.best.scenario.clone();
        mend(&mut better);
        if better != self.best.scenario && self.keeps(better) {
            told(&format!("fails without {what} as well"));
        }
    }

    /// Ends the scenario soon after its failure shows, in whole seconds.
    fn shorten(&mut self) {
        let Some(first) = self.best.outcome.violations.first() else { return };
        let end = Duration::from_secs(first.at_ms / 1000 + 1);
        if end < self.best.scenario.length {
            let mut shorter = self.best.scenario.clone();
            shorter.length = end;
            shorter.steps.retain(|step| step.earliest() < end);
            self.keeps(shorter);
        }
    }

    /// Drops the expectations that have no part in the failure; no run is needed for what is only looked at.
    fn forget_expectations(&mut self) {
        if matches!(self.failure, Failure::Broken(_)) {
            let within = self.best.scenario.expect.converged_within;
            self.best.scenario.expect = portolan_config::Expect { converged_within: within, ..Default::default() };
        }
    }
}
