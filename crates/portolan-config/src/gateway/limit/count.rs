//! `rate`, `quota` or `concurrency` of a limit, with what belongs to them: how much, over which windows, and counted how.

use std::{ops::RangeInclusive, time::Duration};

use portolan_model::{Rate, parse_duration, render_duration};

use crate::{
    Algorithm, MAX_QUOTA, Period, Window,
    decode::{self, Fields, choice, text, whole, within},
    fault::Report,
    limit::{zone_name, zone_remedy},
    tree::Node,
};

/// Ways to count a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Fixed,
    Sliding,
    TokenBucket,
}

/// Their words.
pub(crate) const ALGORITHMS: [(&str, Way); 3] =
    [("fixed", Way::Fixed), ("sliding", Way::Sliding), ("token_bucket", Way::TokenBucket)];

/// The periods of a calendar quota.
const PERIODS: [(&str, Period); 2] = [("day", Period::Day), ("month", Period::Month)];

pub(super) fn algorithm(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Algorithm> {
    let given = ["rate", "quota", "concurrency"].map(|key| fields.get(key).map(|node| (key, node)));
    let mut given = given.into_iter().flatten();
    let first = given.next();
    for (key, node) in given {
        let (kept, _) = first?;
        let remedy = format!("keep one of them; two limits on a route hold both `{kept}` and `{key}`");
        report.fault(node.named_at, format!("`{kept}` says how much already"), remedy);
    }
    match first {
        Some(("quota", node)) => calendar(node, fields, report),
        Some(("concurrency", node)) => {
            only_with_rate(fields, "concurrency", report);
            refuse_time_zone(fields, report);
            Some(Algorithm::Concurrency { limit: count(node, report)? })
        }
        _ => {
            let node = fields.require("rate", "600/min", report)?;
            refuse_time_zone(fields, report);
            rate(node, fields, report)
        }
    }
}

fn rate(node: &Node, fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Algorithm> {
    let way = fields.optional("algorithm", Way::Fixed, report, |node, report| choice(node, &ALGORITHMS, report));
    let least = if way == Way::TokenBucket { Duration::from_millis(1) } else { MIN_WINDOW };
    let rate = rate_with_window(node, least..=MAX_WINDOW, report);
    let burst = fields.get("burst");
    match (way, burst) {
        (Way::TokenBucket, burst) => {
            let burst = burst.or_else(|| {
                let example = rate.map_or(50, |rate| (rate.count / 10).max(1));
                fields.require("burst", &example.to_string(), report)
            });
            let burst = burst.and_then(|node| count(node, report));
            return Some(Algorithm::TokenBucket { rate: rate?, burst: burst? });
        }
        (_, Some(burst)) => {
            let remedy = "add `algorithm: token_bucket`, or remove `burst`".to_owned();
            report.fault(burst.named_at, "`burst` belongs to a token bucket: windows have none", remedy);
        }
        (_, None) => {}
    }
    let Rate { count: quota, per } = rate?;
    Some(match way {
        Way::Sliding => Algorithm::SlidingWindow { quota, window: per },
        _ => Algorithm::FixedWindow { quota, window: Window::Length(per) },
    })
}

/// `10000/day` or `10000/month`.
fn calendar(node: &Node, fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Algorithm> {
    if let Some(algorithm) = fields.get("algorithm") {
        let sort = choice(algorithm, &ALGORITHMS, report);
        if sort.is_some_and(|way| way != Way::Fixed) {
            let message = format!("{} has no calendar: days and months are counted from nothing", algorithm.quoted());
            let remedy = "remove `algorithm`, or write `rate: …/24h` in place of `quota`".to_owned();
            report.fault(algorithm.at, message, remedy);
        }
    }
    if let Some(burst) = fields.get("burst") {
        super::useless(burst, "`burst` belongs to a token bucket: windows have none", "remove `burst`", report);
    }
    let zone = fields.optional("time_zone", "UTC".to_owned(), report, time_zone);
    let word = text(node, report)?;
    let (number, period) =
        word.split_once('/').map_or((&**word, ""), |(number, period)| (number.trim(), period.trim()));
    let Some((_, period)) = PERIODS.into_iter().find(|(known, _)| *known == period) else {
        let length = format!("1{}", period.trim_start_matches(|c: char| c.is_ascii_digit()));
        let rate = parse_duration(&length).is_ok() || matches!(period, "hour" | "minute" | "second" | "week");
        let number = if number.is_empty() || number.parse::<u64>().is_err() { "10000" } else { number };
        let remedy = match rate {
            true => format!("write `{number}/day`, `{number}/month`, or `rate` for windows of a fixed length"),
            false => format!("write `{number}/day` or `{number}/month`"),
        };
        report.fault(node.at, format!("{} is not a quota of a civil day or month", node.quoted()), remedy);
        return None;
    };
    let Ok(quota) = number.parse::<u64>() else {
        let remedy = format!("write a whole number, for example 10000/{}", period.as_str());
        report.fault(node.at, format!("{} does not start with a number", node.quoted()), remedy);
        return None;
    };
    let quota = within(node, quota, 1..=MAX_QUOTA, ToString::to_string, report)?;
    Some(Algorithm::FixedWindow { quota, window: Window::Calendar { period, zone } })
}

fn time_zone(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let word = text(node, report)?;
    // The database takes any case; a document and its differences show one.
    let zone = zone_name(word);
    if zone.is_none() {
        let remedy = if report.is_full() { String::new() } else { zone_remedy(word) };
        report.fault(node.at, format!("{} names no time zone", node.quoted()), remedy);
    }
    zone
}

fn refuse_time_zone(fields: &Fields<'_>, report: &mut Report<'_>) {
    if let Some(zone) = fields.get("time_zone") {
        let remedy = "write `quota: 10000/day` in place of `rate`, or remove `time_zone`";
        super::useless(zone, "`time_zone` belongs to a `quota` of civil days or months", remedy, report);
    }
}

fn only_with_rate(fields: &Fields<'_>, other: &str, report: &mut Report<'_>) {
    for key in ["algorithm", "burst"] {
        if let Some(node) = fields.get(key) {
            let remedy = format!("remove `{key}`, or write `rate` in place of `{other}`");
            report.fault(node.named_at, format!("`{key}` belongs to a `rate`"), remedy);
        }
    }
}

/// How much of something, as a quota of a limit.
pub(super) fn count(node: &Node, report: &mut Report<'_>) -> Option<u64> {
    whole(node, 1..=MAX_QUOTA, report)
}

/// A rate that shares of regions can be cut from.
pub(crate) fn bounded_rate(node: &Node, report: &mut Report<'_>) -> Option<Rate> {
    rate_with_window(node, MIN_WINDOW..=MAX_WINDOW, report)
}

fn rate_with_window(node: &Node, windows: RangeInclusive<Duration>, report: &mut Report<'_>) -> Option<Rate> {
    let rate = decode::rate(node, report)?;
    let count = within(node, rate.count, 1..=MAX_QUOTA, |count| format!("{count} per window"), report);
    let whole_millis = rate.per.subsec_nanos() % 1_000_000 == 0;
    if !windows.contains(&rate.per) || !whole_millis {
        let window = render_duration(rate.per);
        let (least, most) = (render_duration(*windows.start()), render_duration(*windows.end()));
        let bucket = if rate.per < *windows.start() { ", or count it as `algorithm: token_bucket`" } else { "" };
        let remedy = format!("write a window from {least} to {most} in whole milliseconds{bucket}");
        report.fault(node.at, format!("{} has a window of {window}", node.quoted()), remedy);
        return None;
    }
    count.map(|_| rate)
}

/// Shorter windows would end before another region hears of them.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// A month of marks.
const MAX_WINDOW: Duration = Duration::from_secs(31 * 86_400);
