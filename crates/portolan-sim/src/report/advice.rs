//! What a reader may want to change, from what a scenario showed. Each piece names what was seen and what the change
//! costs; where nothing stands out there is none. Never decides a verdict.

use portolan_config::OnPartition;

use super::{
    Report,
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
            advice.extend(on_policy(name, terms.on_partition, figures));
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
fn on_policy(name: &str, policy: OnPartition, figures: &LimitFigures) -> Option<String> {
    let degraded = figures.refused.degraded;
    match policy {
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
        _ if figures.false_rejects_ppm > MANY_FALSE_REJECTS => Some(format!(
            "`{name}` refused requests although it had room: {} of the limit, mean over slots, since rights were with other \
             regions. `shares: demand` lays them where the load is; `borrow_wait` lets a request wait for a loan; `overdraft` \
             trades a bounded excess for fewer refusals.",
            ppm(figures.false_rejects_ppm)
        )),
        _ => None,
    }
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
