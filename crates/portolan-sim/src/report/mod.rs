//! Puts the outcomes of scenarios into words, pages and files for programs: the verdict first, then what users felt, then
//! figures, then how to see it again. Decides nothing: verdicts and figures are the outcomes' own.

mod advice;
mod comparison;
mod figure;
#[cfg(test)]
mod fixture;
mod html;
mod junit;
mod lanes;
mod markdown;
mod story;
mod text;
mod words;

use std::{collections::BTreeMap, sync::Arc};

use portolan_config::{Limit, Snapshot};
use portolan_model::render_duration;
use serde::Serialize;

use crate::{
    Sources,
    outcome::{Outcome, Verdict},
    series::Series,
};

pub use comparison::{Comparison, Moved, ScenarioComparison, Trend};

/// Runs of one scenario that are told with everything they recorded: the worst ones. The others keep their figures.
pub const MAX_TOLD: usize = 3;

/// All scenarios of one call.
#[derive(Clone, Debug, Serialize)]
pub struct Rehearsal {
    /// What this form is: `portolan-simulate`.
    pub schema: &'static str,
    /// Version of this form; fields are only ever added within one.
    pub version: u32,
    /// Version of the program.
    pub program: &'static str,
    /// The gateway document that the caller named, in place of those of the scenarios.
    pub config: Option<String>,
    /// The worst verdict.
    pub verdict: Verdict,
    /// Every scenario, in the order given.
    pub scenarios: Vec<Report>,
}

/// All runs of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's file, as given.
    pub file: String,
    /// Its title.
    pub title: String,
    /// The worst verdict of all runs.
    pub verdict: Verdict,
    /// The command that runs the worst run again.
    pub replay: String,
    /// What the limits of its gateway document say.
    pub limits: BTreeMap<String, Terms>,
    /// Every run, in the order of seeds. All but the worst [`MAX_TOLD`] have an empty series and no events.
    pub outcomes: Vec<Outcome>,
    #[serde(skip)]
    arguments: String,
    /// What stands in the way of sending clients to the region near them.
    #[serde(skip)]
    placing: Option<String>,
}

/// What a limit says, in words of the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// How much, and how it is counted: `600/min, sliding`.
    pub amount: String,
    /// What is counted apart: `user`.
    pub key: String,
    /// What happens while regions are cut off, and what softens it: `static, borrow_wait 50ms`.
    pub policy: String,
    #[serde(skip)]
    limit: Arc<Limit>,
    /// How many regions share it.
    #[serde(skip)]
    regions: usize,
}

/// The runs of one scenario as they end, in any order; holds no more series than are told.
#[derive(Debug, Default)]
pub struct Runs {
    outcomes: Vec<Outcome>,
}

impl Runs {
    /// Takes a run. Forgets what it looked like over time unless it is among the worst so far.
    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
        for index in ranked(&self.outcomes).into_iter().skip(MAX_TOLD) {
            self.outcomes[index].series = Series::default();
            self.outcomes[index].events = Vec::new();
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }
}

/// Indices of runs, worst first: by verdict, then by how many requests were answered well, then by seed.
fn ranked(outcomes: &[Outcome]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..outcomes.len()).collect();
    order.sort_by_key(|index| {
        let outcome = &outcomes[*index];
        let requests = &outcome.figures.requests;
        let answered = u128::from(requests.answered_well()) * 1_000_000 / u128::from(requests.sent.max(1));
        (std::cmp::Reverse(outcome.verdict), answered, outcome.seed)
    });
    order
}

impl Report {
    /// Collects the runs of one scenario. `file` and `arguments`, those of the command line that fix what the file
    /// leaves open, make the replay line.
    pub fn new(file: &str, title: &str, arguments: &str, runs: Runs) -> Self {
        let mut outcomes = runs.outcomes;
        outcomes.sort_by_key(|outcome| outcome.seed);
        let verdict = outcomes.iter().map(|outcome| outcome.verdict).max().unwrap_or(Verdict::Pass);
        let mut report = Self {
            file: file.to_owned(),
            title: title.to_owned(),
            verdict,
            replay: String::new(),
            limits: BTreeMap::new(),
            outcomes,
            arguments: arguments.to_owned(),
            placing: None,
        };
        report.replay = report.worst().map_or(String::new(), |worst| report.replay(worst.seed));
        report
    }

    /// Adds what the limits of the gateway document say.
    #[must_use]
    pub fn with_terms(mut self, sources: &Sources) -> Self {
        if let Ok(snapshot) = Snapshot::parse(&sources.gateway, &sources.regions) {
            let regions = &sources.regions;
            let terms = |limit: &Arc<Limit>| Terms::of(Arc::clone(limit), regions.ids().len());
            self.limits = snapshot.limits.iter().map(|(name, limit)| (name.to_string(), terms(limit))).collect();
            if regions.networks().is_empty() && regions.ids().len() > 1 && !snapshot.zones.is_empty() {
                self.placing = Some(
                    "The region files place no client networks, so DNS sends every client to one region. Add a \
                     `networks.yaml` to rehearse, and to serve, clients near them."
                        .to_owned(),
                );
            }
        }
        self
    }

    /// The run that is told first.
    pub fn worst(&self) -> Option<&Outcome> {
        self.told().into_iter().next()
    }

    /// The runs that are told in full, worst first: one where all passed, else the failed ones.
    fn told(&self) -> Vec<&Outcome> {
        let ranked = ranked(&self.outcomes).into_iter().map(|index| &self.outcomes[index]);
        let told = ranked.enumerate().filter(|(rank, outcome)| *rank == 0 || outcome.verdict != Verdict::Pass);
        told.map(|(_, outcome)| outcome).take(MAX_TOLD).collect()
    }

    /// The command that runs one seed again.
    pub fn replay(&self, seed: u64) -> String {
        let arguments = if self.arguments.is_empty() { String::new() } else { format!("{} ", self.arguments) };
        format!("portolan simulate {arguments}{} --seed {seed}", self.file)
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        text::write(self)
    }
}

impl Rehearsal {
    /// Puts scenarios together.
    pub fn new(config: Option<String>, scenarios: Vec<Report>) -> Self {
        let verdict = scenarios.iter().map(|report| report.verdict).max().unwrap_or(Verdict::Pass);
        Self { schema: "portolan-simulate", version: 1, program: env!("CARGO_PKG_VERSION"), config, verdict, scenarios }
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain values with text keys are JSON")
    }

    /// For CI systems: one suite per scenario, one case per seed.
    pub fn to_junit(&self) -> String {
        junit::write(self)
    }

    /// For a comment on a pull request.
    pub fn to_markdown(&self) -> String {
        markdown::write(self)
    }

    /// One page that needs nothing beside itself, smaller than 3 MB.
    pub fn to_html(&self) -> String {
        html::write(self)
    }
}

impl Terms {
    fn of(limit: Arc<Limit>, regions: usize) -> Self {
        let mut policy = limit.on_partition.to_string();
        if limit.overdraft.parts() > 0 {
            policy += &format!(", overdraft {}", limit.overdraft);
        }
        if !limit.borrow_wait.is_zero() {
            policy += &format!(", borrow_wait {}", render_duration(limit.borrow_wait));
        }
        if limit.shadow {
            policy += ", shadow";
        }
        Self { amount: limit.algorithm.to_string(), key: limit.key.to_string(), policy, regions, limit }
    }
}

impl Verdict {
    /// The verdict in capitals.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::ExpectationFailed => "EXPECTATION FAILED",
            Self::InvariantBroken => "INVARIANT BROKEN",
        }
    }
}
