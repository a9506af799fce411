//! Says in plain words what came of a scenario: what users felt and for how long, which limit refused, who took the load,
//! which rule was in force, what control did. The worst run is told; counts are over all runs. Advice is in `advice`.

use std::collections::BTreeSet;

use super::{
    Report, advice,
    words::{count, grouped, list, percent, ppm, seconds, stretch},
};
use crate::{
    outcome::{Figures, LimitFigures, Outcome, Verdict},
    series::{DnsSeen, ModeSeen, RegionSeries, Series, SpanKind},
};

/// A scenario in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Story {
    /// One sentence.
    pub headline: String,
    /// What there is to say, by subject.
    pub points: Vec<Point>,
    /// What a reader may want to change; empty for nothing.
    pub advice: Vec<String>,
}

/// What there is to say about one subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The subject in one word.
    pub about: &'static str,
    /// Sentences; `backticks` mark what stands in a document.
    pub lines: Vec<String>,
}

/// Tells a scenario.
pub fn tell(report: &Report) -> Story {
    let Some(worst) = report.worst() else { return Story::default() };
    let mut points = Vec::new();
    let mut add = |about, lines: Vec<String>| {
        if !lines.is_empty() {
            points.push(Point { about, lines });
        }
    };
    add("Broken", broken(worst));
    add("Users", users(report, worst));
    add("Limits", limits(report));
    add("Load", load(&worst.series));
    add("Rules", rules(&worst.series));
    add("Control", control(report));
    Story { headline: headline(report, worst), points, advice: advice::of(report) }
}

fn headline(report: &Report, worst: &Outcome) -> String {
    let runs = report.outcomes.len() as u64;
    let failed = report.outcomes.iter().filter(|outcome| outcome.verdict != Verdict::Pass).count() as u64;
    let of = format!("{failed} of {}", count(runs, "run"));
    match worst.verdict {
        Verdict::Pass if runs == 1 => "Every rule held and every expectation was met.".to_owned(),
        Verdict::Pass => format!("Every rule held and every expectation was met in {}.", count(runs, "run")),
        Verdict::ExpectationFailed => match worst.failed_expectations.first() {
            Some(first) => format!("{of} missed an expectation: {}, was {}.", first.expected, first.actual),
            None => format!("{of} missed an expectation."),
        },
        Verdict::InvariantBroken => match worst.violations.first() {
            Some(first) => format!(
                "{of} broke a rule, “{}”, at {}: {}.",
                first.invariant.words(),
                seconds(first.at_ms),
                first.detail.trim_end_matches('.')
            ),
            None => format!("{of} broke a rule."),
        },
    }
}

/// What failed in the worst run, beyond the first thing, which the headline names.
fn broken(worst: &Outcome) -> Vec<String> {
    let violations = worst.violations.iter().map(|violation| {
        format!("At {}: {}: {}.", seconds(violation.at_ms), violation.invariant.words(), violation.detail)
    });
    let missed =
        worst.failed_expectations.iter().map(|failed| format!("Expected {}, was {}.", failed.expected, failed.actual));
    let mut lines: Vec<String> = violations.chain(missed).skip(1).collect();
    if lines.len() > MAX_BROKEN {
        let more = lines.len() - MAX_BROKEN;
        lines.truncate(MAX_BROKEN);
        lines.push(format!("And {more} more."));
    }
    lines
}

fn users(report: &Report, worst: &Outcome) -> Vec<String> {
    let total = |pick: fn(&Figures) -> u64| report.outcomes.iter().map(|outcome| pick(&outcome.figures)).sum::<u64>();
    let sent = total(|figures| figures.requests.sent);
    if sent == 0 {
        return Vec::new();
    }
    let failed = total(|figures| figures.requests.failed);
    let mut line = format!(
        "{} of {} got an answer other than 5xx: {} were forwarded, {} told to slow down (429), {} refused (503){}, {} not answered.",
        percent(total(|figures| figures.requests.answered_well()), sent),
        count(sent, "request"),
        grouped(total(|figures| figures.requests.forwarded) - failed),
        grouped(total(|figures| figures.requests.limited)),
        grouped(total(|figures| figures.requests.unavailable)),
        if failed > 0 {
            format!(", {} without an answer of their endpoint (502)", grouped(failed))
        } else {
            String::new()
        },
        grouped(total(|figures| figures.requests.unanswered)),
    );
    if report.outcomes.len() > 1 {
        let requests = &worst.figures.requests;
        line += &format!(" Worst run: {} (seed {}).", percent(requests.answered_well(), requests.sent), worst.seed);
    }
    let mut lines = vec![line];
    let felt = worst.series.regions.iter().filter_map(|region| {
        let failing = |point: usize| at(&region.unavailable, point) + at(&region.unanswered, point) > 0;
        let when = stretches(&worst.series, failing);
        let lost: u64 = region.unavailable.iter().chain(&region.unanswered).sum();
        (!when.is_empty()).then(|| (lost, format!("{} {} ({})", region.region, times(&when), count(lost, "request"))))
    });
    let mut felt: Vec<(u64, String)> = felt.collect();
    felt.sort_by_key(|(lost, _)| std::cmp::Reverse(*lost));
    if !felt.is_empty() {
        let shown: Vec<String> = felt.iter().take(MAX_REGIONS).map(|(_, words)| words.clone()).collect();
        lines.push(format!("They felt it in {}.", list(&shown)));
    }
    lines
}

/// One line for each limit that had work to do, worst first.
fn limits(report: &Report) -> Vec<String> {
    let names: BTreeSet<&String> = report.outcomes.iter().flat_map(|outcome| outcome.figures.limits.keys()).collect();
    let mut lines = Vec::new();
    let mut idle = 0;
    for name in names {
        let of_runs: Vec<&LimitFigures> = report.outcomes.iter().filter_map(|o| o.figures.limits.get(name)).collect();
        let total = |pick: fn(&LimitFigures) -> u64| of_runs.iter().map(|figures| pick(figures)).sum::<u64>();
        let most =
            |pick: fn(&LimitFigures) -> u64| of_runs.iter().map(|figures| pick(figures)).max().unwrap_or_default();
        let refused = total(|f| f.refused.limited + f.refused.degraded + f.refused.undecided);
        let (fullest, bound, quota) = (most(|f| f.most_admitted), most(|f| f.bound), most(|f| f.quota));
        if refused == 0 && fullest < quota {
            idle += 1;
            continue;
        }
        let terms =
            report.limits.get(name).map(|terms| format!(" ({}, {})", terms.amount, terms.policy)).unwrap_or_default();
        let allowed = if bound > quota { format!(" ({} by its policy)", grouped(bound)) } else { String::new() };
        let mut line =
            format!("`{name}`{terms}: at most {} of {}{allowed} in one slot", grouped(fullest), grouped(quota));
        let parts = [
            (total(|f| f.refused.limited), "refused as over the limit (429)"),
            (total(|f| f.refused.degraded), "refused by its policy (503)"),
            (total(|f| f.refused.undecided), "not decided in time (503)"),
        ];
        for (units, what) in parts.into_iter().filter(|(units, _)| *units > 0) {
            line += &format!(", {} {what}", grouped(units));
        }
        let wrongly = most(|f| f.false_rejects_ppm);
        if wrongly > 0 {
            line += &format!("; refused although there was room: {} of the limit, mean over slots", ppm(wrongly));
        }
        lines.push(line + ".");
    }
    match (idle, lines.is_empty()) {
        (0, _) => {}
        (_, true) => lines.push("No limit refused anything.".to_owned()),
        (1, false) => lines.push("The other limit refused nothing.".to_owned()),
        (_, false) => lines.push(format!("The other {idle} limits refused nothing.")),
    }
    lines
}

/// Who served how much before and during the faults.
fn load(series: &Series) -> Vec<String> {
    let mut faults = series.spans.iter().filter(|span| span.kind == SpanKind::Fault);
    let Some(first) = faults.next() else { return Vec::new() };
    let end = series.points as u64 * series.step_ms;
    let from = first.from_ms;
    let to = first.until_ms.unwrap_or(end).min(end);
    let share = |region: &RegionSeries, from: u64, to: u64| {
        let points = (from / series.step_ms.max(1)) as usize..(to / series.step_ms.max(1)) as usize;
        let served = |region: &RegionSeries| points.clone().map(|point| at(&region.forwarded, point)).sum::<u64>();
        let all: u64 = series.regions.iter().map(served).sum();
        (all > 0).then(|| served(region) * 1000 / all)
    };
    let mut moved = Vec::new();
    for region in &series.regions {
        if let (Some(before), Some(during)) = (share(region, 0, from), share(region, from, to))
            && before.abs_diff(during) >= NOTABLE_SHIFT
        {
            moved.push(format!("{} from {} % to {} %", region.region, (before + 5) / 10, (during + 5) / 10));
        }
    }
    match moved.len() {
        0 => vec![format!(
            "During the first fault ({}) each region served about the share it served before.",
            stretch((from, to))
        )],
        _ => vec![format!(
            "During the first fault ({}) forwarded requests moved: {}.",
            stretch((from, to)),
            list(&moved)
        )],
    }
}

/// Policies for partitions and DNS.
fn rules(series: &Series) -> Vec<String> {
    let mut lines = Vec::new();
    let by_region = |holds: &dyn Fn(&RegionSeries, usize) -> bool| {
        let of = |region: &RegionSeries| {
            let when = stretches(series, |point| holds(region, point));
            (!when.is_empty()).then(|| format!("{} {}", region.region, times(&when)))
        };
        series.regions.iter().filter_map(of).take(MAX_REGIONS).collect::<Vec<_>>()
    };
    let degraded = by_region(&|region, point| region.mode.get(point) == Some(&ModeSeen::Degraded));
    if !degraded.is_empty() {
        lines.push(format!("Limits went by their `on_partition` policy in {}.", list(&degraded)));
    }
    let down = by_region(&|region, point| region.dns.get(point).is_some_and(|dns| *dns != DnsSeen::Serving));
    if !down.is_empty() {
        lines.push(format!("DNS sent clients elsewhere than {}.", list(&down)));
    }
    lines
}

fn control(report: &Report) -> Vec<String> {
    let worst = |pick: fn(&Figures) -> Option<u64>| report.outcomes.iter().filter_map(|o| pick(&o.figures)).max();
    let orders: u64 = report.outcomes.iter().map(|outcome| outcome.figures.acknowledged_revisions).sum();
    let mut lines = Vec::new();
    if let Some(slowest) = worst(|figures| figures.slowest_activation_ms).filter(|_| orders > 0) {
        lines.push(format!("{} acknowledged, in force everywhere within {slowest} ms.", count(orders, "revision")));
    }
    let changes = worst(|figures| Some(figures.leader_changes)).unwrap_or_default();
    let leaderless = worst(|figures| Some(figures.leaderless_ms)).unwrap_or_default();
    lines.push(match (changes, leaderless) {
        (0, 0) => "One leader throughout.".to_owned(),
        (0, _) => format!("The leader stayed the same; {} without one.", seconds(leaderless)),
        _ => format!("At most {} in a run, {} without a leader.", count(changes, "leader change"), seconds(leaderless)),
    });
    let agreed = worst(|figures| figures.agreed_after_ms);
    let counters = worst(|figures| figures.counters_agreed_after_ms);
    if let (Some(agreed), Some(counters)) = (agreed, counters) {
        lines.push(format!(
            "All nodes agreed on revision and leader {} after the last fault, on counters {} after the last request.",
            seconds(agreed),
            seconds(counters)
        ));
    }
    lines
}

fn at(values: &[u64], point: usize) -> u64 {
    values.get(point).copied().unwrap_or_default()
}

/// Times at which something held, in milliseconds; short gaps are closed.
fn stretches(series: &Series, holds: impl Fn(usize) -> bool) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for point in (0..series.points).filter(|point| holds(*point)) {
        let (from, to) = (point as u64 * series.step_ms, (point as u64 + 1) * series.step_ms);
        match found.last_mut() {
            Some((_, end)) if from <= *end + GAP_POINTS * series.step_ms => *end = to,
            _ => found.push((from, to)),
        }
    }
    found
}

/// A few stretches in words.
fn times(stretches: &[(u64, u64)]) -> String {
    let shown: Vec<String> = stretches.iter().take(MAX_STRETCHES).map(|span| stretch(*span)).collect();
    let more = stretches.len().saturating_sub(MAX_STRETCHES);
    let last = stretches.last().map_or(0, |(_, to)| *to);
    if more > 0 {
        let again = if more == 1 { "once more".to_owned() } else { format!("{more} times more") };
        format!("from {} and {again} until {}", shown.join(", "), seconds(last))
    } else {
        format!("from {}", list(&shown))
    }
}

/// Broken rules and missed expectations that are told.
const MAX_BROKEN: usize = 5;

/// Regions that one sentence names.
const MAX_REGIONS: usize = 6;

/// Stretches of time that one sentence names.
const MAX_STRETCHES: usize = 3;

/// Points without a fault that do not end a stretch of them.
const GAP_POINTS: u64 = 2;

/// Change of a region's share that is worth a word, in thousandths.
const NOTABLE_SHIFT: u64 = 30;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Invariant, Violation,
        report::{Rehearsal, Runs, fixture},
    };

    fn report(change: impl FnOnce(&mut Outcome)) -> Report {
        let mut outcome = fixture::outcome(3, &["ap-southeast", "eu-west", "us-east"]);
        change(&mut outcome);
        let mut runs = Runs::default();
        runs.add(outcome);
        Report::new("simulations/cut.yaml", "One region is cut off", "--config gateway.yaml", runs)
    }

    fn said(report: &Report, about: &str) -> String {
        let story = tell(report);
        story.points.iter().find(|point| point.about == about).map(|point| point.lines.join(" ")).unwrap_or_default()
    }

    #[test]
    fn a_story_says_what_users_felt_which_limit_refused_and_which_rule_was_in_force() {
        let report = report(|_| {});
        let users = said(&report, "Users");
        assert!(users.starts_with("98.88 % of 9000 requests got an answer other than 5xx"), "{users}");
        assert!(users.ends_with("They felt it in eu-west from 20 s to 40 s (84 requests)."), "{users}");
        let limits = said(&report, "Limits");
        assert!(limits.contains("`orders-total`: at most 120 of 120 in one slot"), "{limits}");
        assert!(limits.contains("refused although there was room: 4.10 % of the limit"), "{limits}");
        let rules = said(&report, "Rules");
        assert!(rules.contains("policy in ap-southeast from 20 s to 40 s"), "{rules}");
        assert!(rules.contains("DNS sent clients elsewhere than ap-southeast from 47 s to 60 s"), "{rules}");
        assert!(said(&report, "Load").contains("eu-west from 33 % to 27 %"), "{}", said(&report, "Load"));
    }

    #[test]
    fn a_broken_rule_is_the_headline_and_asks_for_a_report() {
        let report = report(|outcome| {
            outcome.verdict = Verdict::InvariantBroken;
            let detail = "121 of 120".to_owned();
            outcome.violations.push(Violation { at_ms: 21_500, invariant: Invariant::LimitBound, detail });
        });
        let story = tell(&report);
        assert_eq!(story.headline, "1 of 1 run broke a rule, “no limit is exceeded”, at 21.5 s: 121 of 120.");
        assert!(story.advice[0].contains("please report it"), "{:?}", story.advice);
        let text = report.to_text();
        assert!(text.starts_with("INVARIANT BROKEN  One region is cut off\n"), "{text}");
        let replay = "portolan simulate --config gateway.yaml simulations/cut.yaml --seed 3";
        assert!(text.contains(&format!("    replay: {replay}\n")), "{text}");
        let rehearsal = Rehearsal::new(None, vec![report]);
        let junit = rehearsal.to_junit();
        assert!(junit.contains("tests=\"1\" failures=\"1\"") && junit.contains(replay), "{junit}");
        let json: serde_json::Value = serde_json::from_str(&rehearsal.to_json()).expect("JSON");
        assert_eq!((&json["schema"], &json["verdict"]), (&"portolan-simulate".into(), &"invariant-broken".into()));
    }

    #[test]
    fn only_the_worst_runs_keep_what_they_looked_like() {
        let mut runs = Runs::default();
        for seed in 1..=9 {
            let mut outcome = fixture::outcome(seed, &["eu-west", "us-east"]);
            outcome.figures.requests.unavailable += seed;
            outcome.figures.requests.forwarded -= seed;
            runs.add(outcome);
        }
        let report = Report::new("a.yaml", "A", "", runs);
        let kept = report.outcomes.iter().filter(|outcome| outcome.series.points > 0).map(|outcome| outcome.seed);
        assert_eq!(kept.collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(report.worst().map(|worst| worst.seed), Some(9));
        assert!(report.replay.ends_with("--seed 9"));
    }
}
