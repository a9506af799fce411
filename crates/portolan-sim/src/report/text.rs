//! A scenario for a terminal. Decides line breaks and order.

use std::fmt::Write;

use super::{Report, story, words::count};
use crate::outcome::{Outcome, Verdict};

/// Columns of a line.
const WIDTH: usize = 110;

/// Columns before what is said.
const INDENT: usize = 11;

/// Events listed before a violation.
const EVENTS_SHOWN: usize = 8;

/// Writes the report for people: verdict, story, failed runs with their events, replay lines.
pub fn write(report: &Report) -> String {
    let mut text = String::new();
    let story = story::tell(report);
    let _ = writeln!(text, "{}  {}", report.verdict.words(), report.title);
    say(&mut text, "", &story.headline);
    for point in &story.points {
        for (index, line) in point.lines.iter().enumerate() {
            say(&mut text, if index == 0 { point.about } else { "" }, line);
        }
    }
    for (index, line) in story.advice.iter().enumerate() {
        say(&mut text, if index == 0 { "Consider" } else { "" }, line);
    }
    let failed = report.outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Pass).count();
    let told = report.told();
    for outcome in told.iter().filter(|outcome| outcome.verdict != Verdict::Pass) {
        tell(&mut text, report, outcome);
    }
    if failed > told.len() {
        let _ = writeln!(text, "  {} failed beside these.", count((failed - told.len()) as u64, "run"));
    }
    if let (0, Some(worst)) = (failed, told.first()) {
        let _ = writeln!(text, "  replay: {}", report.replay(worst.seed));
    }
    if let [outcome] = report.outcomes.as_slice() {
        let _ = writeln!(
            text,
            "  trace {}, scenario {}, portolan {}",
            outcome.trace_hash, outcome.scenario_hash, outcome.program
        );
    }
    text
}

/// One failed run.
fn tell(text: &mut String, report: &Report, outcome: &Outcome) {
    let _ = writeln!(text, "  seed {}:", outcome.seed);
    if let Some(first) = outcome.violations.first() {
        let before: Vec<_> = outcome.events.iter().filter(|event| event.at_ms <= first.at_ms).collect();
        for event in before.iter().rev().take(EVENTS_SHOWN).rev() {
            let _ = writeln!(text, "    {} {}", moment(event.at_ms), event.what);
        }
    }
    for violation in &outcome.violations {
        let words = violation.invariant.words();
        let _ = writeln!(text, "    {} broken: {words}: {}", moment(violation.at_ms), violation.detail);
    }
    for failed in &outcome.failed_expectations {
        let _ = writeln!(text, "    expected {}, was {}", failed.expected, failed.actual);
    }
    let _ = writeln!(text, "    replay: {}", report.replay(outcome.seed));
}

fn moment(millis: u64) -> String {
    format!("{:>4}.{:03} s", millis / 1000, millis % 1000)
}

/// One sentence or more beside its subject, wrapped at words.
fn say(text: &mut String, about: &str, line: &str) {
    let mut column = INDENT;
    let _ = write!(text, "{:<INDENT$}", format!("  {about}"));
    for (index, word) in line.split(' ').enumerate() {
        let width = word.chars().count();
        if index > 0 && column + 1 + width > WIDTH {
            let _ = write!(text, "\n{:INDENT$}", "");
            column = INDENT;
        } else if index > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += width;
    }
    text.push('\n');
}
