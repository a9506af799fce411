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
    /// Regions with lanes of their own.
    regions: usize,
}

/// Tried in this order; what is said in words is never left out.
const DETAILS: [Detail; 8] = [
    Detail { runs: 3, steps: 600, regions: 24 },
    Detail { runs: 2, steps: 300, regions: 24 },
    Detail { runs: 1, steps: 300, regions: 12 },
    Detail { runs: 1, steps: 120, regions: 8 },
    Detail { runs: 1, steps: 60, regions: 4 },
    Detail { runs: 1, steps: 30, regions: 2 },
    Detail { runs: 1, steps: 15, regions: 0 },
    Detail { runs: 0, steps: 1, regions: 0 },
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
    let figure = lanes::figure(outcome, detail.regions);
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
    fn a_page_of_ten_scenarios_is_small_and_asks_nothing_of_anybody() {
        let page = rehearsal(10, &["ap-southeast", "eu-west", "us-east"]).to_html();
        assert!(page.len() < MAX_PAGE, "{} bytes", page.len());
        assert_eq!(page.matches("class=\"figure\"").count(), 10, "every scenario is drawn");
        for reference in ["http:", "https:", "//cdn", "url(", "@import", "<link", "<img", "<iframe", " src=", "fetch("]
        {
            assert!(!page.contains(reference), "the page refers to `{reference}`");
        }
    }

    #[test]
    fn a_page_that_would_be_too_large_shows_less_detail() {
        let names: Vec<String> = (0..24).map(|index| format!("region-{index:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let page = rehearsal(10, &names).to_html();
        assert!(page.len() < MAX_PAGE, "{} bytes", page.len());
        assert_eq!(page.matches("class=\"figure\"").count(), 10, "every scenario is drawn all the same");
    }

    #[test]
    fn a_page_is_well_formed() {
        let page = rehearsal(1, &["eu-west", "us-east"]).to_html();
        parse(&page);
    }

    #[test]
    fn tables_hold_the_series() {
        let names = ["eu-west", "us-east"];
        let page = rehearsal(1, &names).to_html();
        let outcome = fixture::outcome(1, &names);
        let document = parse(&page);
        let table = |caption: &str, nth: usize| {
            let tables = document.descendants().filter(|node| node.has_tag_name("table"));
            let mut named = tables.filter(|table| {
                table.children().any(|node| node.has_tag_name("caption") && node.text() == Some(caption))
            });
            rows(named.nth(nth).unwrap_or_else(|| panic!("no table `{caption}`")))
        };
        let region = &outcome.series.regions[1];
        let expected = (0..fixture::SECONDS).map(|second| {
            let columns = [&region.forwarded, &region.limited, &region.unavailable, &region.unanswered];
            let values = columns.map(|column| column[second].to_string());
            [vec![second.to_string()], values.to_vec()].concat()
        });
        assert_eq!(table("us-east, requests/s", 0), expected.collect::<Vec<_>>());
        let limit = &outcome.series.limits[0];
        let expected = (0..fixture::SECONDS).map(|second| {
            let slot = &limit.slots[second];
            let admitted = slot.admitted.iter().map(u64::to_string);
            [vec![second.to_string()], admitted.collect(), vec![slot.quota.to_string()]].concat()
        });
        assert_eq!(table("all regions, units per slot of 1 s", 0), expected.collect::<Vec<_>>());
        let heard = table("eu-west hears, ms since last word", 0);
        let age = |second: usize| outcome.series.regions[0].view_age_ms[second][1].to_string();
        assert!((0..fixture::SECONDS).all(|second| heard[second] == [second.to_string(), age(second)]), "{heard:?}");
    }

    #[test]
    fn text_of_files_stays_text() {
        let hostile = "</style><script>alert(1)</script>&\"'";
        let mut runs = Runs::default();
        let mut outcome = fixture::outcome(1, &["eu-west", "us-east"]);
        outcome.events[0].what = hostile.to_owned();
        outcome.series.spans[0].what = hostile.to_owned();
        outcome.series.limits[0].key = hostile.to_owned();
        let detail = hostile.to_owned();
        outcome.verdict = crate::Verdict::InvariantBroken;
        outcome.violations.push(crate::Violation { at_ms: 5, invariant: crate::Invariant::LimitBound, detail });
        runs.add(outcome);
        let report = Report::new(hostile, hostile, hostile, runs);
        let rehearsal = Rehearsal::new(Some(hostile.to_owned()), vec![report]);
        let page = rehearsal.to_html();
        assert!(!page.contains("<script>alert"), "markup of a file is markup of the page");
        parse(&page);
        let xml = rehearsal.to_junit();
        parse(&xml);
    }

    fn rows(table: roxmltree::Node<'_, '_>) -> Vec<Vec<String>> {
        let body = table.children().find(|node| node.has_tag_name("tbody")).expect("a table has a body");
        let row = |row: roxmltree::Node<'_, '_>| {
            let cells = row.children().map(|cell| cell.text().unwrap_or_default().to_owned());
            cells.collect::<Vec<_>>()
        };
        body.children().filter(roxmltree::Node::is_element).map(row).collect()
    }

    fn parse(text: &str) -> roxmltree::Document<'_> {
        let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
        roxmltree::Document::parse_with_options(text, options).expect("well-formed")
    }
}
