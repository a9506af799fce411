//! Two rehearsals of the same scenarios and seeds, before and after a change of the configuration: which figures moved,
//! and whether for better or worse. Decides what counts as better: fewer users refused or left alone, less above a limit.

use std::{collections::BTreeSet, fmt::Write};

use serde::Serialize;

use super::{
    Rehearsal, Report,
    words::{grouped, percent, ppm},
};
use crate::outcome::{Figures, LimitFigures, Verdict};

/// What changed between two rehearsals.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What this form is: `portolan-simulate-diff`.
    pub schema: &'static str,
    /// Version of this form; fields are only ever added within one.
    pub version: u32,
    /// The gateway document before.
    pub before: String,
    /// The gateway document after.
    pub after: String,
    /// The worst verdict after.
    pub verdict: Verdict,
    /// By scenario, in the order given.
    pub scenarios: Vec<ScenarioComparison>,
}

/// What changed in one scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioComparison {
    /// The scenario's file.
    pub file: String,
    /// Its title.
    pub title: String,
    /// What it comes to.
    pub trend: Trend,
    /// Figures that are not the same.
    pub changes: Vec<Moved>,
}

/// One figure that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// Which figure.
    pub figure: String,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
    /// Which way it went.
    pub trend: Trend,
}

/// Which way something went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trend {
    /// Nothing moved.
    Same,
    /// What moved is neither good nor bad by itself.
    Other,
    /// Better.
    Better,
    /// Some figures are better and some are worse.
    Mixed,
    /// Worse.
    Worse,
}

impl Trend {
    const fn word(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other => "different",
            Self::Better => "better",
            Self::Mixed => "mixed",
            Self::Worse => "worse",
        }
    }

    fn of_all(changes: &[Moved]) -> Self {
        let any = |trend| changes.iter().any(|change| change.trend == trend);
        match (any(Self::Better), any(Self::Worse)) {
            (true, true) => Self::Mixed,
            (true, false) => Self::Better,
            (false, true) => Self::Worse,
            (false, false) if changes.is_empty() => Self::Same,
            (false, false) => Self::Other,
        }
    }
}

impl Comparison {
    /// Compares two rehearsals of the same scenarios and seeds.
    pub fn new(before: &Rehearsal, after: &Rehearsal) -> Self {
        let name = |rehearsal: &Rehearsal| rehearsal.config.clone().unwrap_or_default();
        let pairs = before.scenarios.iter().zip(&after.scenarios);
        Self {
            schema: "portolan-simulate-diff",
            version: 1,
            before: name(before),
            after: name(after),
            verdict: after.verdict,
            scenarios: pairs.map(|(before, after)| compare(before, after)).collect(),
        }
    }

    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = self.headline() + "\n";
        for scenario in &self.scenarios {
            let _ = writeln!(text, "\n{}  {}", scenario.trend.word().to_uppercase(), scenario.title);
            let width = scenario.changes.iter().map(|change| change.figure.chars().count()).max().unwrap_or_default();
            for change in &scenario.changes {
                let trend = if change.trend == Trend::Other { "" } else { change.trend.word() };
                let line = format!("  {:<width$}  {} → {}  {trend}", change.figure, change.before, change.after);
                let _ = writeln!(text, "{}", line.trim_end());
            }
        }
        text
    }

    /// For programs.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain values with text keys are JSON")
    }

    /// For a comment on a pull request.
    pub fn to_markdown(&self) -> String {
        use super::markdown::{code, plain};
        let mut text = format!(
            "### {}\n\n| scenario | | figure | before | after |\n|---|---|---|---:|---:|\n",
            plain(&self.headline())
        );
        for scenario in &self.scenarios {
            if scenario.changes.is_empty() {
                let _ = writeln!(text, "| {} | same | | | |", plain(&scenario.title));
            }
            for change in &scenario.changes {
                let (figure, trend) = (plain(&change.figure), change.trend.word());
                let _ = writeln!(
                    text,
                    "| {} | {trend} | {figure} | {} | {} |",
                    plain(&scenario.title),
                    change.before,
                    change.after
                );
            }
        }
        let _ = writeln!(text, "\nBefore: {}, after: {}", code(&self.before), code(&self.after));
        text
    }

    fn headline(&self) -> String {
        let count = |trend| self.scenarios.iter().filter(|scenario| scenario.trend == trend).count();
        let of = self.scenarios.len();
        let counts = [Trend::Worse, Trend::Mixed, Trend::Better, Trend::Other, Trend::Same];
        let parts: Vec<String> =
            counts.iter().filter(|t| count(**t) > 0).map(|t| format!("{} in {}", t.word(), count(*t))).collect();
        format!("{} against {}: {} of {of} scenarios.", self.after, self.before, parts.join(", "))
    }
}

/// How a figure is judged.
#[derive(Clone, Copy)]
enum Good {
    Less,
    More,
    Neither,
}

fn compare(before: &Report, after: &Report) -> ScenarioComparison {
    let mut changes = Vec::new();
    let mut add = |figure: String, pair: (u64, u64), good: Good, show: &dyn Fn(u64) -> String| {
        if pair.0 != pair.1 {
            let trend = match good {
                Good::Neither => Trend::Other,
                Good::Less if pair.1 < pair.0 => Trend::Better,
                Good::More if pair.1 > pair.0 => Trend::Better,
                _ => Trend::Worse,
            };
            changes.push(Moved { figure, before: show(pair.0), after: show(pair.1), trend });
        }
    };
    let plain = |value: u64| grouped(value);
    let verdicts = (before.verdict as u64, after.verdict as u64);
    add("verdict".to_owned(), verdicts, Good::Less, &|verdict| {
        let verdicts = [Verdict::Pass, Verdict::ExpectationFailed, Verdict::InvariantBroken];
        verdicts.iter().find(|v| **v as u64 == verdict).map_or("", |v| v.words()).to_lowercase()
    });
    let total = |pick: fn(&Figures) -> u64| (sum(before, pick), sum(after, pick));
    let sent = total(|f| f.requests.sent);
    let well = total(|f| f.requests.answered_well());
    if sent.0 == sent.1 {
        add("answered other than 5xx".to_owned(), well, Good::More, &|well| percent(well, sent.0));
    }
    add("forwarded".to_owned(), total(|f| f.requests.forwarded), Good::Neither, &plain);
    add("429".to_owned(), total(|f| f.requests.limited), Good::Neither, &plain);
    add("503".to_owned(), total(|f| f.requests.unavailable), Good::Less, &plain);
    add("no answer".to_owned(), total(|f| f.requests.unanswered), Good::Less, &plain);
    let names: BTreeSet<&String> =
        [before, after].iter().flat_map(|r| &r.outcomes).flat_map(|o| o.figures.limits.keys()).collect();
    for name in names {
        let most = |pick: fn(&LimitFigures) -> u64| (most(before, name, pick), most(after, name, pick));
        add(format!("{name}: fullest slot"), most(|f| f.most_admitted), Good::Neither, &plain);
        add(format!("{name}: above the limit, worst slot"), most(|f| f.over_most_ppm), Good::Less, &ppm);
        add(format!("{name}: refused with room, mean"), most(|f| f.false_rejects_ppm), Good::Less, &ppm);
    }
    ScenarioComparison { file: after.file.clone(), title: after.title.clone(), trend: Trend::of_all(&changes), changes }
}

fn sum(report: &Report, pick: fn(&Figures) -> u64) -> u64 {
    report.outcomes.iter().map(|outcome| pick(&outcome.figures)).sum()
}

fn most(report: &Report, limit: &str, pick: fn(&LimitFigures) -> u64) -> u64 {
    let of_runs = report.outcomes.iter().filter_map(|outcome| outcome.figures.limits.get(limit));
    of_runs.map(pick).max().unwrap_or_default()
}
