//! The worst case of limits for people: a verdict, a table, and the reasons below it.

use std::{collections::BTreeSet, fmt::Write as _};

use portolan_config::RegionMap;
use portolan_limits::Fleet;
use portolan_model::render_duration;

use super::forecast::{BudgetAnswer, Forecast};
use crate::output::Table;

/// The whole answer of `plan`.
pub fn plan(regions: &RegionMap, fleet: &Fleet, limits: &[Forecast], notes: &BTreeSet<String>) -> String {
    let mut text = fleet_line(regions, fleet);
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    if limits.is_empty() {
        text += "\nthe document has no limits\n";
    }
    for limit in limits {
        text.push('\n');
        text += &one(limit);
    }
    text
}

fn fleet_line(regions: &RegionMap, fleet: &Fleet) -> String {
    let count = regions.ids().len();
    if count == 1 {
        return format!("1 region: {}\n", regions.ids()[0]);
    }
    let names: Vec<&str> = regions.ids().iter().map(portolan_model::RegionId::as_str).collect();
    format!(
        "{count} regions up to {} apart: {}\nA region counts as unheard after {}; a loan from another one takes up to {}.\n",
        render_duration(fleet.worst_rtt),
        names.join(", "),
        render_duration(fleet.staleness),
        render_duration(fleet.until_lent()),
    )
}

fn one(limit: &Forecast) -> String {
    let mut text = format!("{}: {} {}\n", limit.name, limit.amount, limit.counted);
    text += &wrapped("  ", "  ", &limit.verdict);
    text.push('\n');
    text += &indented(&figures(limit).to_string());
    text.push('\n');
    text += &indented(&reasons(limit));
    text += &budgets("plan", &limit.plans);
    text += &budgets("override", &limit.overrides);
    for advice in &limit.advice {
        text += &wrapped("  > ", "    ", advice);
    }
    text
}

fn figures(limit: &Forecast) -> Table {
    let (healthy, partition) = (&limit.healthy, &limit.partition);
    let mut table = Table::new(["", "all is well", "regions cut off"]);
    let window = limit.window.as_deref();
    let admitted = window.map_or_else(|| "admitted at one time".to_owned(), |window| format!("admitted per {window}"));
    table.row([admitted, most(healthy.admitted.units), most(partition.admitted.units)]);
    if let (Some(a), Some(b)) = (&healthy.admitted_in_any_span, &partition.admitted_in_any_span) {
        let span = window.filter(|window| !window.contains(' ')).unwrap_or("span as long");
        table.row([format!("in any {span}"), most(a.units), most(b.units)]);
    }
    let (wrongly, alone) = (&partition.refused_wrongly, &limit.refused_wrongly_alone);
    table.row(["refused wrongly".to_owned(), most(healthy.refused_wrongly.units), most(wrongly.units)]);
    if alone.units != wrongly.units {
        table.row([ALONE.to_owned(), String::new(), most(alone.units)]);
    }
    table
}

fn most(units: Option<u64>) -> String {
    match units {
        None => "all".to_owned(),
        Some(0) => "none".to_owned(),
        Some(units) => format!("at most {units}"),
    }
}

/// Each reason once, under what it is the reason for.
fn reasons(limit: &Forecast) -> String {
    let (healthy, partition) = (&limit.healthy, &limit.partition);
    let shares: Vec<String> = limit.shares.iter().map(|(region, share)| format!("{region} {share}")).collect();
    let mut lines = vec![
        ("shares", shares.join(", ")),
        ("admitted", healthy.admitted.why.clone()),
        ("… cut off", partition.admitted.why.clone()),
    ];
    lines.extend(healthy.admitted_in_any_span.as_ref().map(|bound| ("in any …", bound.why.clone())));
    lines.push(("refused", healthy.refused_wrongly.why.clone()));
    lines.push(("… cut off", partition.refused_wrongly.why.clone()));
    let alone = &limit.refused_wrongly_alone;
    if alone.units != partition.refused_wrongly.units {
        let from = if limit.window.is_some() { ", from the second window that begins then" } else { "" };
        lines.push((ALONE, format!("a region to which all others count as unheard{from}: {}", alone.why)));
    }
    let mut also = |key: &str, label: &'static str, what: &str| {
        if let Some(bound) = limit.also.get(key)
            && let Some(units) = bound.units.filter(|units| *units > 0)
        {
            lines.push((label, format!("{what} {units}: {}", bound.why)));
        }
    };
    also("overdraft", "overdraft", "adds up to");
    also("sliding_estimate", "estimate", "at most");
    also("clocks_apart", "clocks apart", "in any span up to");
    also("node_cut_off", "node cut off", "up to");
    also("lender_failover", "failover", "up to");
    also("dead_region", "dead region", "refused up to");
    also("restart", "restart", "refused up to");
    lines.extend(limit.also.get("costly_request").map(|bound| ("dear requests", bound.why.clone())));
    let mut text = String::new();
    let mut told = BTreeSet::new();
    for (label, why) in lines.into_iter().filter(|(_, why)| !why.is_empty()) {
        if told.insert(why.clone()) {
            text += &wrapped(&format!("{label:<15} "), &" ".repeat(16), &why);
        }
    }
    text
}

fn budgets(what: &str, budgets: &std::collections::BTreeMap<String, BudgetAnswer>) -> String {
    if budgets.is_empty() {
        return String::new();
    }
    let mut table = Table::new([what, "admitted at most", "regions cut off", "refused wrongly", ALONE]);
    for (name, budget) in budgets.iter().take(MAX_BUDGETS) {
        table.row([
            name.clone(),
            count(budget.admitted),
            count(budget.admitted_in_a_partition),
            budget.refused_wrongly_in_a_partition.to_string(),
            budget.refused_wrongly_alone.to_string(),
        ]);
    }
    let dear: Vec<&str> =
        budgets.iter().filter(|(_, it)| it.costly_request.is_some()).map(|(name, _)| name.as_str()).collect();
    let dear = match dear.split_first() {
        Some((first, [])) => format!("  of {first} a request may cost more than the smallest region owns\n"),
        Some((first, others)) => {
            format!("  of {first} and {} more a request may cost more than the smallest region owns\n", others.len())
        }
        None => String::new(),
    };
    let more = budgets.len().saturating_sub(MAX_BUDGETS);
    let more = if more > 0 { format!("  and {more} more; `--output json` has them all\n") } else { String::new() };
    format!("\n{}{more}{dear}", indented(&table.to_string()))
}

/// One line per limit.
pub fn summary(limits: &[Forecast]) -> String {
    let mut table = Table::new(["limit", "", "admitted at most", "in any span", "refused wrongly at most", ALONE]);
    for limit in limits {
        let (healthy, partition) = (&limit.healthy, &limit.partition);
        let span = healthy.admitted_in_any_span.as_ref().zip(partition.admitted_in_any_span.as_ref());
        table.row([
            limit.name.to_string(),
            limit.amount.clone(),
            format!("{}{}", both(healthy.admitted.units, partition.admitted.units), cut_node(limit)),
            span.map_or_else(|| "-".to_owned(), |(a, b)| both(a.units, b.units)),
            if limit.shadow {
                "only counted".to_owned()
            } else {
                both(healthy.refused_wrongly.units, partition.refused_wrongly.units)
            },
            if limit.shadow { String::new() } else { count(limit.refused_wrongly_alone.units) },
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    let dear = limits.iter().filter_map(|limit| Some((&limit.name, limit.also.get("costly_request")?)));
    let dear = dear.map(|(name, bound)| wrapped("  ", "    ", &format!("{name}: {}", bound.why)));
    indented(&table.to_string()) + &dear.collect::<String>()
}

/// Two figures, or one that holds in both states.
fn both(healthy: Option<u64>, partition: Option<u64>) -> String {
    if healthy == partition { count(healthy) } else { format!("{}, cut off {}", count(healthy), count(partition)) }
}

/// What a node that is cut from its region may bring that to.
fn cut_node(limit: &Forecast) -> String {
    let units = limit.also.get("node_cut_off").and_then(|bound| bound.units);
    units.map_or_else(String::new, |units| format!(", node cut off {units}"))
}

fn count(units: Option<u64>) -> String {
    units.map_or_else(|| "all".to_owned(), |units| units.to_string())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}

/// Breaks a text at blanks; the first line starts with one word, the others with another.
fn wrapped(first: &str, rest: &str, text: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split(' ') {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &line;
            lines.push('\n');
            rest.clone_into(&mut line);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    lines + &line + "\n"
}

/// What a region refuses wrongly that hears no other.
const ALONE: &str = "… cut off alone";

/// Columns of a line of reasons.
const WIDTH: usize = 100;

/// Plans and overrides that are listed.
const MAX_BUDGETS: usize = 20;
