//! Runs the same scenarios with two configurations and says what got worse: does this change make the loss of a region
//! worse?

use portolan_config::Scenario;
use serde::Serialize;

use crate::{Outcome, Sources, Verdict, run};

/// A scenario with two configurations.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its name, for the result.
    pub name: String,
    /// The scenario.
    pub scenario: Scenario,
    /// With the configuration in force.
    pub before: Sources,
    /// With the one on trial.
    pub after: Sources,
}

/// What the two configurations came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Difference {
    /// What differs, the worst first; equal figures are left out.
    pub changes: Vec<Change>,
    /// Runs with each configuration.
    pub runs: u64,
}

/// One figure that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The scenario.
    pub scenario: String,
    /// The figure, in words.
    pub what: String,
    /// Before, worst over the seeds.
    pub before: i64,
    /// After, worst over the seeds.
    pub after: i64,
    /// Its unit.
    pub unit: Unit,
    /// Whether that is for the worse.
    pub worse: bool,
    /// The seed that shows it best.
    pub seed: u64,
}

/// Units of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Pass, expectation failed, invariant broken: 0, 1, 2.
    Verdict,
    /// Parts per million.
    PartsPerMillion,
    /// A number.
    Count,
    /// Milliseconds.
    Milliseconds,
}

impl Difference {
    /// Whether anything got worse.
    pub fn is_worse(&self) -> bool {
        self.changes.iter().any(|change| change.worse)
    }
}

/// Runs every pair under every seed, one after the other; `progress` hears of every run.
pub fn diff(pairs: &[Pair], seeds: &[u64], progress: &mut dyn FnMut()) -> Difference {
    let mut difference = Difference::default();
    for pair in pairs {
        let mut runs = Vec::new();
        for &seed in seeds {
            let before = run(&pair.scenario, &pair.before, seed);
            progress();
            let after = run(&pair.scenario, &pair.after, seed);
            progress();
            difference.runs += 1;
            runs.push((before, after));
        }
        difference.changes.extend(changes(&pair.name, &runs));
    }
    difference.changes.sort_by_key(|change| !change.worse);
    difference
}

/// What differs between runs of two configurations under the same seeds.
pub fn changes(scenario: &str, runs: &[(Outcome, Outcome)]) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut compare = |what: String, unit: Unit, figure: &dyn Fn(&Outcome) -> Option<i64>| {
        // All figures here are better when smaller.
        let worst = |pick: &dyn Fn(&(Outcome, Outcome)) -> Option<i64>| runs.iter().filter_map(pick).max();
        let before = worst(&|(before, _)| figure(before)).unwrap_or_default();
        let after = worst(&|(_, after)| figure(after)).unwrap_or_default();
        let apart = |(before, after): &&(Outcome, Outcome)| {
            (figure(after).unwrap_or_default() - figure(before).unwrap_or_default()).abs()
        };
        let seed = runs.iter().max_by_key(apart).map_or(0, |(before, _)| before.seed);
        if before != after {
            let scenario = scenario.to_owned();
            changes.push(Change { scenario, what, before, after, unit, worse: after > before, seed });
        }
    };
    compare("verdict".to_owned(), Unit::Verdict, &|outcome| {
        Some(match outcome.verdict {
            Verdict::Pass => 0,
            Verdict::ExpectationFailed => 1,
            Verdict::InvariantBroken => 2,
        })
    });
    compare("requests without an answer or answered 5xx".to_owned(), Unit::PartsPerMillion, &|outcome| {
        let requests = &outcome.figures.requests;
        signed((requests.sent - requests.answered_well().min(requests.sent)) * 1_000_000 / requests.sent.max(1))
    });
    compare("requests told to slow down (429)".to_owned(), Unit::PartsPerMillion, &|outcome| {
        signed(outcome.figures.requests.limited * 1_000_000 / outcome.figures.requests.sent.max(1))
    });
    compare("slowest activation of a revision".to_owned(), Unit::Milliseconds, &|outcome| {
        outcome.figures.slowest_activation_ms.and_then(signed)
    });
    compare("changes of the leader".to_owned(), Unit::Count, &|outcome| signed(outcome.figures.leader_changes));
    let limits = runs.iter().flat_map(|(before, after)| [before, after]).flat_map(|run| run.figures.limits.keys());
    let names: std::collections::BTreeSet<&String> = limits.collect();
    for name in names {
        let of = |outcome: &Outcome, figure: fn(&crate::LimitFigures) -> u64| {
            outcome.figures.limits.get(name).and_then(|limit| signed(figure(limit)))
        };
        compare(format!("`{name}`: admitted in the fullest slot"), Unit::Count, &|run| of(run, |l| l.most_admitted));
        compare(format!("`{name}`: above its quota, worst slot"), Unit::PartsPerMillion, &|run| {
            of(run, |l| l.over_most_ppm)
        });
        compare(format!("`{name}`: refused wrongly"), Unit::PartsPerMillion, &|run| of(run, |l| l.false_rejects_ppm));
        compare(format!("`{name}`: refused with 503"), Unit::Count, &|run| {
            of(run, |l| l.refused.degraded + l.refused.undecided)
        });
    }
    changes
}

fn signed(figure: u64) -> Option<i64> {
    i64::try_from(figure).ok()
}
