//! A rehearsal as one page: no file beside it, no request to anywhere, readable without its script. Decides how much
//! detail fits: a page stays below [`MAX_PAGE`] by coarser steps first, then by fewer runs.

mod lane;
pub mod markup;
mod path;
mod summary;

use std::fmt::Write;

use self::markup::{percent, text};
use super::{Rehearsal, Report, figure::Figure, lanes};
use crate::outcome::Outcome;

/// Largest page, in bytes.
const MAX_PAGE: usize = 3_000_000;

/// Detail of a page.
#[derive(Clone, Copy)]
struct Detail {
    /// Runs of a scenario that are drawn.
    runs: usize,
    /// Steps of the longest axis.
    steps: usize,
}

/// Tried in this order; what is said in words is never left out.
const DETAILS: [Detail; 7] = [
    Detail { runs: 3, steps: 600 },
    Detail { runs: 2, steps: 300 },
    Detail { runs: 1, steps: 300 },
    Detail { runs: 1, steps: 120 },
    Detail { runs: 1, steps: 60 },
    Detail { runs: 1, steps: 20 },
    Detail { runs: 0, steps: 1 },
];

/// Ticks of an axis.
const MAX_TICKS: u64 = 8;

/// Writes the page with as much detail as fits.
pub fn write(rehearsal: &Rehearsal) -> String {
    let pages = DETAILS.iter().map(|detail| page(rehearsal, *detail));
    let mut last = String::new();
    for page in pages {
        last = page;
        if last.len() < MAX_PAGE {
            break;
        }
    }
    last
}

fn page(rehearsal: &Rehearsal, detail: Detail) -> String {
    let mut html = String::from("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
    // Whatever a file of the user says, this page loads nothing and sends nothing.
    html.push_str(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\"/>\n",
    );
    let title = rehearsal.config.as_deref().map_or("Rehearsal".to_owned(), |config| format!("Rehearsal of {config}"));
    let _ = write!(html, "<title>{}: {}</title>\n<style>\n", text(&title), rehearsal.verdict.words().to_lowercase());
    html.push_str(include_str!("page.css"));
    html.push_str("</style></head>\n<body>\n");
    summary::write_head(&mut html, rehearsal, &title);
    html.push_str("<main id=\"scenarios\">\n");
    for (index, report) in rehearsal.scenarios.iter().enumerate() {
        scenario(&mut html, report, index, detail);
    }
    html.push_str("</main>\n");
    summary::write_foot(&mut html, rehearsal);
    html.push_str("<script>//<![CDATA[\n");
    html.push_str(include_str!("page.js"));
    html.push_str("//]]></script>\n</body></html>\n");
    html
}

fn scenario(html: &mut String, report: &Report, index: usize, detail: Detail) {
    let _ = writeln!(html, "<section class=\"scenario\" id=\"s{}\">", index + 1);
    summary::write_story(html, report);
    summary::write_limits(html, report);
    summary::write_seeds(html, report);
    for outcome in report.told().into_iter().take(detail.runs) {
        run(html, report, outcome, detail);
    }
    html.push_str("</section>\n");
}

/// The lanes of one run.
fn run(html: &mut String, report: &Report, outcome: &Outcome, detail: Detail) {
    let figure = lanes::figure(outcome);
    let by = figure.steps.div_ceil(detail.steps.max(1));
    let figure = figure.coarsened(by);
    let _ = writeln!(
        html,
        "<h3>Seed {}: {}</h3>\n<p class=\"meta\">Replay: <code>{}</code></p>",
        outcome.seed,
        outcome.verdict.words().to_lowercase(),
        text(report.replay(outcome.seed)),
    );
    if figure.steps > 0 {
        lanes_of(html, &figure);
    }
    summary::write_events(html, outcome);
}

fn lanes_of(html: &mut String, figure: &Figure) {
    let end = figure.end_ms();
    let tick = tick_ms(end);
    let _ = writeln!(
        html,
        "<div class=\"figure\" data-steps=\"{}\" data-step=\"{}\" style=\"--grid:{}\">",
        figure.steps,
        figure.step_ms,
        percent(tick, end),
    );
    let step = lane::seconds(figure.step_ms);
    let _ = write!(
        html,
        "<div class=\"axis\" tabindex=\"0\" role=\"slider\" aria-label=\"Time; arrow keys move the cursor through all lanes, Escape ends\" \
         aria-valuemin=\"0\" aria-valuemax=\"{}\" aria-valuenow=\"0\" aria-valuetext=\"no time chosen\"><span class=\"clock\">most in any step of {step} s</span><div class=\"ticks\">",
        figure.steps.saturating_sub(1),
    );
    let mut at = 0;
    while at <= end {
        let class = if at + tick / 2 > end && at > 0 { " class=\"last\"" } else { "" };
        let _ = write!(html, "<span{class} style=\"left:{}\">{} s</span>", percent(at, end), lane::seconds(at));
        at += tick;
    }
    html.push_str("</div></div>\n");
    for group in &figure.groups {
        let open = if group.open { " open=\"open\"" } else { "" };
        let _ = writeln!(
            html,
            "<details class=\"group\"{open}><summary>{}</summary><p>{}</p>",
            text(&group.title),
            text(&group.note)
        );
        for one in &group.lanes {
            lane::write(html, figure, one);
        }
        html.push_str("</details>\n");
    }
    html.push_str("</div>\n");
}

/// Distance of ticks: a length that people count in.
fn tick_ms(end: u64) -> u64 {
    let seconds = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400];
    let fits = seconds.into_iter().map(|seconds| seconds * 1000).find(|tick| end / tick <= MAX_TICKS);
    fits.unwrap_or(end.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Runs, fixture};

    fn rehearsal(scenarios: usize, names: &[&str]) -> Rehearsal {
        let report = |index: usize| {
            let mut runs = Runs::default();
            (1..=3).for_each(|seed| runs.add(fixture::outcome(seed, names)));
            Report::new(&format!("simulations/{index}.yaml"), "One region is cut off", "", runs)
        };
        Rehearsal::new(Some("gateway.yaml".to_owned()), (0..scenarios).map(report).collect())
    }

    #[test]
    fn a_page_is_small() {
        let page = rehearsal(2, &["ap-southeast", "eu-west", "us-east"]).to_html();
        assert!(page.len() < MAX_PAGE);
    }
}
