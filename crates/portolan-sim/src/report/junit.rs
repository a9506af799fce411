//! A rehearsal as JUnit XML, in the shape that CI systems agree on: `testsuites`, `testsuite`, `testcase`, `failure`.
//! Times are left out: virtual ones would be taken for real ones.

use std::fmt::Write;

use super::{Rehearsal, Report, html::markup::text as escape, story};
use crate::outcome::{Outcome, Verdict};

/// Writes the document.
pub fn write(rehearsal: &Rehearsal) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let tests: usize = rehearsal.scenarios.iter().map(|report| report.outcomes.len()).sum();
    let failures: usize = rehearsal.scenarios.iter().map(failures).sum();
    let _ =
        writeln!(xml, "<testsuites name=\"portolan simulate\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">");
    for report in &rehearsal.scenarios {
        suite(&mut xml, report);
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn failures(report: &Report) -> usize {
    report.outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Pass).count()
}

fn suite(xml: &mut String, report: &Report) {
    let _ = writeln!(
        xml,
        "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"0\">",
        escape(&report.title),
        report.outcomes.len(),
        failures(report),
    );
    for outcome in &report.outcomes {
        case(xml, report, outcome);
    }
    let story = story::tell(report);
    let mut summary = story.headline;
    for point in &story.points {
        let _ = write!(summary, "\n{}: {}", point.about, point.lines.join(" "));
    }
    for advice in &story.advice {
        let _ = write!(summary, "\nConsider: {advice}");
    }
    let _ = writeln!(xml, "    <system-out>{}</system-out>\n  </testsuite>", escape(summary));
}

fn case(xml: &mut String, report: &Report, outcome: &Outcome) {
    let _ = write!(xml, "    <testcase classname=\"{}\" name=\"seed {}\"", escape(&report.file), outcome.seed);
    if outcome.verdict == Verdict::Pass {
        xml.push_str("/>\n");
        return;
    }
    let mut lines: Vec<String> = Vec::new();
    for violation in &outcome.violations {
        let (at, words) = (violation.at_ms, violation.invariant.words());
        lines.push(format!("{}.{:03} s broken: {words}: {}", at / 1000, at % 1000, violation.detail));
    }
    let missed = outcome.failed_expectations.iter();
    lines.extend(missed.map(|failed| format!("expected {}, was {}", failed.expected, failed.actual)));
    let message = lines.first().cloned().unwrap_or_default();
    lines.push(format!("replay: {}", report.replay(outcome.seed)));
    let _ = writeln!(
        xml,
        ">\n      <failure type=\"{}\" message=\"{}\">{}</failure>\n    </testcase>",
        outcome.verdict.words().to_lowercase(),
        escape(message),
        escape(lines.join("\n")),
    );
}
