//! What a reader may want to change, from what a scenario showed. Each piece names what was seen and what the change
//! costs; where nothing stands out there is none. Never decides a verdict.

use portolan_config::{Algorithm, OnPartition, Shares};
use portolan_limits::Promise;

use super::{
    Report, Terms,
    words::{count, grouped, ppm},
};
use crate::outcome::{Figures, Invariant, LimitFigures, Verdict};

/// Advice on a scenario, most important first.
pub fn of(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    if report.verdict == Verdict::InvariantBroken {
        advice.push(on_broken(report));
    }
    for (name, terms) in &report.limits {
        let figures = report.outcomes.iter().filter_map(|outcome| outcome.figures.limits.get(name));
        if let Some(figures) = figures.max_by_key(|figures| (figures.refused.degraded, figures.false_rejects_ppm)) {
            advice.extend(on_policy(name, terms, figures));
            advice.extend(on_undecided(name, figures));
        }
    }
    advice.extend(report.placing.clone());
    let worst = |pick: fn(&Figures) -> u64| report.outcomes.iter().map(|o| pick(&o.figures)).max().unwrap_or_default();
    let unanswered = worst(|figures| figures.requests.unanswered);
    if unanswered > 0 {
        advice.push(format!(
            "{} found no gateway: clients of a dead region keep its address until their DNS answer expires. A shorter \
             `ttl` of the record shortens that; so does a second node in the region.",
            count(unanswered, "request")
        ));
    }
    advice
}

fn on_broken(report: &Report) -> String {
    let broken = report.worst().and_then(|worst| worst.violations.first()).map(|violation| violation.invariant);
    match broken {
        Some(Invariant::Converges) => "The fleet did not agree in time. If the scenario leaves less time than the faults \
            need, raise `converged_within`; else this is a fault of the gateway: please report it with the replay line."
            .to_owned(),
        _ => "A broken rule is a fault of the gateway, whatever the configuration: please report it with the replay line."
            .to_owned(),
    }
}

/// What the partition policy of a limit did.
fn on_policy(name: &str, terms: &Terms, figures: &LimitFigures) -> Option<String> {
    let degraded = figures.refused.degraded;
    match terms.limit.on_partition {
        OnPartition::Closed if degraded > 0 => Some(format!(
            "`{name}` is `closed`: it refused {} with 503 while a region was unheard. `closed(minority)` refuses on the \
             smaller side only; `static` keeps the same bound and refuses what exceeds each region's share.",
            count(degraded, "unit")
        )),
        OnPartition::ClosedMinority if degraded > 0 => Some(format!(
            "`{name}` is `closed(minority)`: the smaller side refused {} with 503. `static` keeps the same bound and lets \
             that side use its share.",
            count(degraded, "unit")
        )),
        OnPartition::Open { cap: None } if figures.most_admitted > figures.quota => Some(format!(
            "`{name}` is `open`: a slot admitted {} of {}. `open(1.5)` caps what each side may add, `static` never exceeds \
             the limit.",
            grouped(figures.most_admitted),
            grouped(figures.quota)
        )),
        _ if figures.false_rejects_ppm > MANY_FALSE_REJECTS && terms.regions > 1 => {
            let refused = ppm(figures.false_rejects_ppm);
            Some(format!(
                "`{name}` refused requests although it had room: {refused} of the limit, mean over slots, since {}.",
                on_rights_elsewhere(terms)
            ))
        }
        _ => None,
    }
}

/// Why a limit refuses what it has room for, and what this kind of limit may do about that.
fn on_rights_elsewhere(terms: &Terms) -> String {
    let algorithm = &terms.limit.algorithm;
    let is_lent = Promise::strict(algorithm.clone()).can_be_lent();
    let has_windows = matches!(algorithm, Algorithm::FixedWindow { .. } | Algorithm::SlidingWindow { .. });
    let why = if is_lent { "rights were with other regions" } else { "regions do not lend this kind of limit" };
    let ways = [
        (terms.limit.shares != Shares::Demand, "`shares: demand` lays them where the load is"),
        (is_lent, "`borrow_wait` lets a request wait for a loan"),
        (has_windows, "`overdraft` trades a bounded excess for fewer refusals"),
    ];
    let ways: Vec<&str> = ways.into_iter().filter(|(goes, _)| *goes).map(|(_, way)| way).collect();
    if ways.is_empty() { format!("{why}. A larger limit refuses less") } else { format!("{why}. {}", ways.join("; ")) }
}

fn on_undecided(name: &str, figures: &LimitFigures) -> Option<String> {
    let undecided = figures.refused.undecided;
    (undecided > 0).then(|| {
        format!(
            "{} under `{name}` were refused since a disk, a key's owner or a starting node did not answer in time.",
            count(undecided, "unit")
        )
    })
}

/// More refusals without need than this are worth advice: the goal for partitions with weighted shares.
const MANY_FALSE_REJECTS: u64 = 30_000;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tally::tests::parsed;

    /// The advice on needless refusals of a limit of three regions, or one.
    fn advice(limit: &str, regions: usize) -> Option<String> {
        let terms = Terms::of(Arc::clone(&parsed(limit).0), regions);
        let figures = LimitFigures { false_rejects_ppm: 2 * MANY_FALSE_REJECTS, ..LimitFigures::default() };
        on_policy("it", &terms, &figures)
    }

    #[test]
    fn nothing_is_advised_that_a_limit_of_its_kind_may_not_have() {
        let ways = ["shares: demand", "borrow_wait: 50ms", "overdraft: 10%"];
        let check = |limit: &str, expected: [bool; 3]| {
            let advice = advice(limit, 3).expect("there is advice");
            let named = ways.map(|way| advice.contains(way.split(": ").next().expect("a key")));
            assert_eq!(named, expected, "{advice}");
            // As `check` would.
            ways.iter()
                .zip(named)
                .filter(|(_, named)| *named)
                .for_each(|(way, _)| drop(parsed(&format!("{limit}, {way}"))));
        };
        check("rate: 90/s", [true, true, true]);
        check("rate: 90/s, algorithm: sliding", [true, true, true]);
        check("rate: 90/min, algorithm: sliding", [true, false, true]);
        check("rate: 90/s, algorithm: token_bucket, burst: 30", [true, true, false]);
        check("concurrency: 60", [true, false, false]);
        let demand = advice("concurrency: 60, shares: demand", 3).expect("there is advice");
        assert!(demand.ends_with("regions do not lend this kind of limit. A larger limit refuses less."), "{demand}");
        assert_eq!(advice("rate: 90/s", 1), None, "no other region has anything");
    }
}
