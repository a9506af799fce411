//! Puts the outcomes of one scenario into words: the verdict first, then what users felt, then how to see it again.
//! Decides nothing.

use std::fmt::Write;

use serde::Serialize;

use crate::outcome::{Figures, Outcome, Verdict};

/// Failed runs that are told in full; the others are only counted.
const MAX_TOLD: usize = 3;
/// Events listed before a violation.
const EVENTS_SHOWN: usize = 8;

/// All runs of one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form.
    pub version: u32,
    /// The scenario's file, as given.
    pub file: String,
    /// Its title.
    pub title: String,
    /// The worst verdict of all runs.
    pub verdict: Verdict,
    /// Every run.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Collects the runs of one scenario.
    pub fn new(file: &str, title: &str, outcomes: Vec<Outcome>) -> Self {
        let verdict = outcomes.iter().map(|outcome| outcome.verdict).max().unwrap_or(Verdict::Pass);
        Self { version: 1, file: file.to_owned(), title: title.to_owned(), verdict, outcomes }
    }

    /// The command that runs one seed again.
    pub fn replay(&self, seed: u64) -> String {
        format!("portolan simulate {} --seed {seed}", self.file)
    }

    /// The report as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain values with text keys are JSON")
    }

    /// The report for people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let runs = self.outcomes.len();
        let failed: Vec<&Outcome> = self.outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Pass).collect();
        let head = match self.verdict {
            Verdict::Pass => "PASS",
            Verdict::ExpectationFailed => "EXPECTATION FAILED",
            Verdict::InvariantBroken => "INVARIANT BROKEN",
        };
        let _ = writeln!(text, "{head}  {}", self.title);
        let _ = match failed.len() {
            0 => writeln!(text, "      {} held every invariant and expectation.", count(runs as u64, "run")),
            n => writeln!(text, "      {n} of {} failed.", count(runs as u64, "run")),
        };
        for line in summary(&self.outcomes) {
            let _ = writeln!(text, "      {line}");
        }
        for outcome in failed.iter().take(MAX_TOLD) {
            self.tell(&mut text, outcome);
        }
        if failed.len() > MAX_TOLD {
            let _ = writeln!(text, "  {} more failed.", count((failed.len() - MAX_TOLD) as u64, "run"));
        }
        if let (1, [outcome]) = (runs, self.outcomes.as_slice()) {
            let _ = writeln!(text, "      trace {}", outcome.trace_hash);
        }
        text
    }

    /// One failed run.
    fn tell(&self, text: &mut String, outcome: &Outcome) {
        let _ = writeln!(text, "  seed {}:", outcome.seed);
        if let Some(first) = outcome.violations.first() {
            let before = outcome.events.iter().filter(|event| event.at_ms <= first.at_ms);
            let before: Vec<_> = before.collect();
            for event in before.iter().rev().take(EVENTS_SHOWN).rev() {
                let _ = writeln!(text, "    {} {}", seconds(event.at_ms), event.what);
            }
        }
        for violation in &outcome.violations {
            let words = violation.invariant.words();
            let _ = writeln!(text, "    {} broken: {words}: {}", seconds(violation.at_ms), violation.detail);
        }
        for failed in &outcome.failed_expectations {
            let _ = writeln!(text, "    expected {}, was {}", failed.expected, failed.actual);
        }
        let _ = writeln!(text, "    replay: {}", self.replay(outcome.seed));
    }
}

/// What users and operators felt, over all runs.
fn summary(outcomes: &[Outcome]) -> Vec<String> {
    let total = |pick: fn(&Figures) -> u64| outcomes.iter().map(|outcome| pick(&outcome.figures)).sum::<u64>();
    let worst = |pick: fn(&Figures) -> Option<u64>| outcomes.iter().filter_map(|outcome| pick(&outcome.figures)).max();
    let sent = total(|f| f.requests.sent);
    let well = total(|f| f.requests.answered_well());
    let mut lines = Vec::new();
    if sent > 0 {
        lines.push(format!(
            "Clients: {} of {} got an answer other than 5xx; {} forwarded, {} limited (429), {} refused (503), {} without an answer.",
            percent(well, sent),
            count(sent, "request"),
            total(|f| f.requests.forwarded),
            total(|f| f.requests.limited),
            total(|f| f.requests.unavailable),
            total(|f| f.requests.unanswered),
        ));
    }
    let names: std::collections::BTreeSet<&String> = outcomes.iter().flat_map(|o| o.figures.limits.keys()).collect();
    for name in names {
        let figures: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.figures.limits.get(name)).collect();
        let most = figures.iter().map(|f| f.most_admitted).max().unwrap_or_default();
        let bound = figures.iter().map(|f| f.bound).max().unwrap_or_default();
        lines.push(format!("Limit `{name}`: at most {most} in one slot, {bound} may be."));
    }
    let orders = total(|f| f.acknowledged_revisions);
    if let Some(slowest) = worst(|f| f.slowest_activation_ms) {
        let orders = count(orders, "revision");
        lines.push(format!("Operators: {orders} acknowledged, in force everywhere within {slowest} ms."));
    }
    let changes = worst(|f| Some(f.leader_changes)).unwrap_or_default();
    let leaderless = worst(|f| Some(f.leaderless_ms)).unwrap_or_default();
    lines.push(format!(
        "Control: at most {} in a run, {leaderless} ms without a leader.",
        count(changes, "leader change")
    ));
    let agreed = worst(|f| f.agreed_after_ms);
    let counters = worst(|f| f.counters_agreed_after_ms);
    if let (Some(agreed), Some(counters)) = (agreed, counters) {
        lines.push(format!(
            "After the last fault: one revision and leader within {agreed} ms; after the last request: equal counters within {counters} ms."
        ));
    }
    lines
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

fn percent(part: u64, whole: u64) -> String {
    let hundredths = part * 10_000 / whole.max(1);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

fn seconds(millis: u64) -> String {
    format!("{:>4}.{:03} s", millis / 1000, millis % 1000)
}
