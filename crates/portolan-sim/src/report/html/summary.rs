//! What a page says in words and tables: the head with all scenarios, each scenario's story, its limits and seeds, and
//! the events of a run.

use std::fmt::Write;

use super::{
    lane::seconds,
    markup::{prose, text},
};
use crate::{
    outcome::{Figures, Outcome, Verdict},
    report::{
        Rehearsal, Report, story,
        words::{count, grouped, percent, ppm},
    },
};

/// Seeds in the table of a scenario; worst first.
const MAX_SEEDS: usize = 200;

/// The top of the page.
pub fn write_head(html: &mut String, rehearsal: &Rehearsal, title: &str) {
    let runs: u64 = rehearsal.scenarios.iter().map(|report| report.outcomes.len() as u64).sum();
    let failed = rehearsal.scenarios.iter().filter(|report| report.verdict != Verdict::Pass).count();
    let scenarios = count(rehearsal.scenarios.len() as u64, "scenario");
    let lead = match (rehearsal.verdict, failed) {
        (Verdict::Pass, _) => {
            format!("Every rule held and every expectation was met: {scenarios}, {}.", count(runs, "run"))
        }
        (Verdict::ExpectationFailed, failed) => {
            format!("Every rule held, but {failed} of {scenarios} missed an expectation.")
        }
        (Verdict::InvariantBroken, failed) => {
            format!("{failed} of {scenarios} failed, and a rule that must never break was broken.")
        }
    };
    let _ = write!(
        html,
        "<a class=\"skip\" href=\"#scenarios\">Skip to the scenarios</a>\n<header><h1>{} {}</h1>\n<p class=\"lead\">{}</p>\n",
        text(title),
        badge(rehearsal.verdict),
        text(lead)
    );
    html.push_str("<div class=\"scroll\"><table><thead><tr><th scope=\"col\">scenario</th><th scope=\"col\" class=\"words\">verdict</th><th scope=\"col\">runs</th><th scope=\"col\">answered other than 5xx</th><th scope=\"col\">429</th><th scope=\"col\">503</th><th scope=\"col\">no answer</th><th scope=\"col\">leader changes</th></tr></thead><tbody>\n");
    for (index, report) in rehearsal.scenarios.iter().enumerate() {
        let total =
            |pick: fn(&Figures) -> u64| report.outcomes.iter().map(|outcome| pick(&outcome.figures)).sum::<u64>();
        let sent = total(|figures| figures.requests.sent);
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\"><a href=\"#s{}\">{}</a></th><td class=\"words\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            index + 1,
            text(&report.title),
            report.verdict.words().to_lowercase(),
            report.outcomes.len(),
            if sent == 0 { "–".to_owned() } else { percent(total(|f| f.requests.answered_well()), sent) },
            grouped(total(|figures| figures.requests.limited)),
            grouped(total(|figures| figures.requests.unavailable)),
            grouped(total(|figures| figures.requests.unanswered)),
            total(|figures| figures.leader_changes),
        );
    }
    html.push_str("</tbody></table></div></header>\n");
}

fn badge(verdict: Verdict) -> String {
    let class = match verdict {
        Verdict::Pass => "pass",
        Verdict::ExpectationFailed => "expectation",
        Verdict::InvariantBroken => "invariant",
    };
    format!("<span class=\"verdict {class}\">{}</span>", verdict.words())
}

/// The bottom of the page.
pub fn write_foot(html: &mut String, rehearsal: &Rehearsal) {
    let _ = writeln!(
        html,
        "<footer><p>portolan {}. The gateway's own code ran in virtual time over a simulated network, with simulated disks and \
         clocks; admissions were counted outside the code that limits. Not modelled: the operating system, TLS, connections, \
         and endpoints that fail. Version, scenario hash and seed fix a run packet for packet.</p></footer>",
        text(rehearsal.program)
    );
}

/// Title, verdict and story of a scenario.
pub fn write_story(html: &mut String, report: &Report) {
    let story = story::tell(report);
    let hash = report.outcomes.first().map_or("", |outcome| outcome.scenario_hash.as_str());
    let _ = writeln!(
        html,
        "<h2>{} {}</h2>\n<p class=\"meta\"><code>{}</code>, scenario {}</p>\n<p class=\"lead\">{}</p>\n<dl class=\"story\">",
        text(&report.title),
        badge(report.verdict),
        text(&report.file),
        text(hash),
        prose(&story.headline),
    );
    for point in &story.points {
        let lines: String = point.lines.iter().map(|line| format!("<p>{}</p>", prose(line))).collect();
        let _ = writeln!(html, "<dt>{}</dt><dd>{lines}</dd>", point.about);
    }
    html.push_str("</dl>\n");
    if story.advice.is_empty() {
        html.push_str("<div class=\"change none\">Nothing here asks for a change.</div>\n");
        return;
    }
    let items: String = story.advice.iter().map(|advice| format!("<li>{}</li>", prose(advice))).collect();
    let _ = writeln!(html, "<div class=\"change\"><b>Consider</b><ul>{items}</ul></div>");
}

/// Figures of the limits, over all runs.
pub fn write_limits(html: &mut String, report: &Report) {
    let names: std::collections::BTreeSet<&String> =
        report.outcomes.iter().flat_map(|o| o.figures.limits.keys()).collect();
    if names.is_empty() {
        return;
    }
    html.push_str("<details><summary>Figures of the limits</summary><div class=\"scroll\"><table><thead><tr>");
    for head in [
        "limit",
        "says",
        "policy",
        "fullest slot",
        "may be",
        "admitted",
        "429",
        "503 policy",
        "503 undecided",
        "refused with room, mean",
        "worst slot",
        "over, mean",
        "worst slot",
        "waited",
    ] {
        let _ = write!(html, "<th scope=\"col\">{head}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for name in names {
        let runs: Vec<_> = report.outcomes.iter().filter_map(|outcome| outcome.figures.limits.get(name)).collect();
        let total =
            |pick: fn(&crate::outcome::LimitFigures) -> u64| runs.iter().map(|figures| pick(figures)).sum::<u64>();
        let most =
            |pick: fn(&crate::outcome::LimitFigures) -> u64| runs.iter().map(|f| pick(f)).max().unwrap_or_default();
        let terms = report.limits.get(name);
        let _ = write!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"words\">{}</td><td class=\"words\">{}</td>",
            text(name),
            terms.map_or("–".to_owned(), |terms| text(format!("{} by {}", terms.amount, terms.key))),
            terms.map_or("–".to_owned(), |terms| text(&terms.policy)),
        );
        let cells = [
            most(|f| f.most_admitted).to_string(),
            most(|f| f.bound).to_string(),
            total(|f| f.admitted).to_string(),
            total(|f| f.refused.limited).to_string(),
            total(|f| f.refused.degraded).to_string(),
            total(|f| f.refused.undecided).to_string(),
            ppm(most(|f| f.false_rejects_ppm)),
            ppm(most(|f| f.false_rejects_most_ppm)),
            ppm(most(|f| f.over_mean_ppm)),
            ppm(most(|f| f.over_most_ppm)),
            total(|f| f.waited).to_string(),
        ];
        cells.iter().for_each(|cell| html.push_str(&format!("<td>{cell}</td>")));
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div></details>\n");
}

/// One row per seed, where there are several.
pub fn write_seeds(html: &mut String, report: &Report) {
    if report.outcomes.len() < 2 {
        return;
    }
    let _ = write!(
        html,
        "<details><summary>{}</summary><div class=\"scroll\"><table><thead><tr>",
        count(report.outcomes.len() as u64, "seed")
    );
    for head in
        ["seed", "verdict", "answered other than 5xx", "429", "503", "no answer", "leader changes", "what failed"]
    {
        let _ = write!(html, "<th scope=\"col\">{head}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for outcome in
        super::super::ranked(&report.outcomes).into_iter().take(MAX_SEEDS).map(|index| &report.outcomes[index])
    {
        let requests = &outcome.figures.requests;
        let violation = outcome.violations.first().map(|v| format!("{}: {}", v.invariant.words(), v.detail));
        let missed =
            outcome.failed_expectations.first().map(|failed| format!("{}, was {}", failed.expected, failed.actual));
        let _ = writeln!(
            html,
            "<tr><th scope=\"row\">{}</th><td class=\"words\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"words\">{}</td></tr>",
            outcome.seed,
            outcome.verdict.words().to_lowercase(),
            percent(requests.answered_well(), requests.sent),
            requests.limited,
            requests.unavailable,
            requests.unanswered,
            outcome.figures.leader_changes,
            text(violation.or(missed).unwrap_or_default()),
        );
    }
    html.push_str("</tbody></table></div></details>\n");
}

/// What happened in a run, line by line.
pub fn write_events(html: &mut String, outcome: &Outcome) {
    if outcome.events.is_empty() {
        return;
    }
    let _ = writeln!(
        html,
        "<details><summary>{}</summary><ol class=\"events\">",
        count(outcome.events.len() as u64, "event")
    );
    for event in &outcome.events {
        let _ = writeln!(html, "<li><time>{} s</time><span>{}</span></li>", seconds(event.at_ms), text(&event.what));
    }
    html.push_str("</ol></details>\n");
}
