//! A rehearsal for a comment on a pull request (GitHub Flavored Markdown). Text of the user is escaped: it may come from
//! a stranger's branch.

use std::fmt::Write;

use super::{
    Rehearsal, Report, story,
    words::{count, grouped, percent},
};
use crate::outcome::{Figures, Outcome, Verdict};

/// Writes the comment.
pub fn write(rehearsal: &Rehearsal) -> String {
    let mut text = String::new();
    let runs: u64 = rehearsal.scenarios.iter().map(|report| report.outcomes.len() as u64).sum();
    let config = rehearsal.config.as_ref().map(|config| format!(" of {}", code(config))).unwrap_or_default();
    let _ = writeln!(
        text,
        "### {} Rehearsal{config}: {} in {}, {}\n",
        mark(rehearsal.verdict),
        rehearsal.verdict.words().to_lowercase(),
        count(rehearsal.scenarios.len() as u64, "scenario"),
        count(runs, "run"),
    );
    let _ = writeln!(text, "| scenario | verdict | answered other than 5xx | 429 | 503 | no answer | fullest slot |");
    let _ = writeln!(text, "|---|---|---:|---:|---:|---:|---|");
    for report in &rehearsal.scenarios {
        row(&mut text, report);
    }
    for report in &rehearsal.scenarios {
        section(&mut text, report);
    }
    let _ = writeln!(text, "\nportolan {}", rehearsal.program);
    text
}

const fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "✅",
        Verdict::ExpectationFailed => "⚠️",
        Verdict::InvariantBroken => "❌",
    }
}

fn row(text: &mut String, report: &Report) {
    let total = |pick: fn(&Figures) -> u64| report.outcomes.iter().map(|outcome| pick(&outcome.figures)).sum::<u64>();
    let sent = total(|figures| figures.requests.sent);
    let answered = if sent == 0 { "–".to_owned() } else { percent(total(|f| f.requests.answered_well()), sent) };
    let _ = writeln!(
        text,
        "| {} | {} {} | {answered} | {} | {} | {} | {} |",
        plain(&report.title),
        mark(report.verdict),
        report.verdict.words().to_lowercase(),
        grouped(total(|figures| figures.requests.limited)),
        grouped(total(|figures| figures.requests.unavailable)),
        grouped(total(|figures| figures.requests.unanswered)),
        fullest(&report.outcomes),
    );
}

/// The limit that came nearest to its bound.
fn fullest(outcomes: &[Outcome]) -> String {
    let limits = outcomes.iter().flat_map(|outcome| &outcome.figures.limits);
    let nearest = limits
        .max_by_key(|(_, figures)| u128::from(figures.most_admitted) * 1_000_000 / u128::from(figures.bound.max(1)));
    nearest.map_or("–".to_owned(), |(name, figures)| {
        format!("{} {} of {}", code(name), grouped(figures.most_admitted), grouped(figures.bound))
    })
}

fn section(text: &mut String, report: &Report) {
    let story = story::tell(report);
    let open = if report.verdict == Verdict::Pass { "" } else { " open" };
    let _ =
        writeln!(text, "\n<details{open}><summary>{}: {}</summary>\n", plain(&report.title), plain(&story.headline));
    for point in &story.points {
        let lines: Vec<String> = point.lines.iter().map(|line| prose(line)).collect();
        let _ = writeln!(text, "- **{}**: {}", point.about, lines.join(" "));
    }
    for advice in &story.advice {
        let _ = writeln!(text, "- **Consider**: {}", prose(advice));
    }
    let _ = writeln!(text, "\nReplay: {}\n\n</details>", code(&report.replay));
}

/// Text with nothing in it that Markdown or HTML would take for its own.
pub fn plain(value: &str) -> String {
    let mut escaped = String::new();
    for character in value.chars() {
        match character {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            // A mention would call somebody.
            '@' => escaped.push_str("&#64;"),
            '\n' | '\r' => escaped.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                escaped.push('\\');
                escaped.push(character);
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A value as code. Backticks and line breaks in it would end it.
pub fn code(value: &str) -> String {
    format!("`{}`", value.replace(['`', '\n', '\r'], " ").replace('|', "\\|"))
}

/// Sentences whose `backticks` mark code.
fn prose(value: &str) -> String {
    let parts = value.split('`').enumerate();
    parts.map(|(index, part)| if index % 2 == 0 { plain(part) } else { code(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_user_is_no_markup() {
        assert_eq!(plain("a|b <img> @you *x*"), "a\\|b &lt;img&gt; &#64;you \\*x\\*");
        assert_eq!(code("a`b|c"), "`a b\\|c`");
        assert_eq!(prose("limit `a_b` is_x"), "limit `a_b` is\\_x");
    }
}
