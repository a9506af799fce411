//! A run that never happened, with something in every lane: what renderers are tested with.

use std::collections::BTreeMap;

use crate::{
    outcome::{Figures, LimitFigures, Outcome, Refusals, RequestCounts, Verdict},
    series::{DnsSeen, LimitRegionSeries, LimitSeries, ModeSeen, RegionSeries, Series, SlotPoint, Span, SpanKind},
    trace::TimedEvent,
};

/// Seconds of the run; the middle third has a fault.
pub const SECONDS: usize = 60;

/// One region is cut off, then a drain is ordered.
pub fn outcome(seed: u64, names: &[&str]) -> Outcome {
    let limits = [limit("orders-total", names, 1000, 120), limit("per-user", names, 60_000, 300)];
    let figures = |limit: &LimitSeries| {
        let refused = limit.regions.iter().flat_map(|region| &region.limited).sum();
        let figures = LimitFigures {
            quota: limit.quota,
            bound: limit.quota,
            most_admitted: limit.slots.iter().map(|slot| slot.admitted.iter().sum()).max().unwrap_or_default(),
            window_ms: limit.window_ms,
            refused: Refusals { limited: refused, degraded: 12, undecided: 0 },
            false_rejects_ppm: 41_000,
            ..LimitFigures::default()
        };
        (limit.limit.clone(), figures)
    };
    Outcome {
        program: "0.0.0",
        scenario_hash: "00000000deadbeef".to_owned(),
        seed,
        verdict: Verdict::Pass,
        violations: Vec::new(),
        failed_expectations: Vec::new(),
        figures: Figures {
            requests: RequestCounts {
                sent: 9000,
                forwarded: 6000,
                limited: 2900,
                unavailable: 80,
                unanswered: 20,
                rejected: 0,
                failed: 0,
            },
            limits: limits.iter().map(figures).collect::<BTreeMap<_, _>>(),
            leader_changes: 1,
            leaderless_ms: 1300,
            ..Figures::default()
        },
        trace_hash: "0".repeat(32),
        events: vec![TimedEvent { at_ms: 20_000, what: format!("{} cut off (Both)", names[1]) }],
        series: Series {
            step_ms: 1000,
            points: SECONDS,
            spans: spans(names),
            regions: (0..names.len()).map(|index| region(index, names)).collect(),
            limits: limits.to_vec(),
            leader: (0..SECONDS).map(|second| leader(second, names)).collect(),
            revision: (0..SECONDS).map(|second| 1 + u64::from(second > 45)).collect(),
        },
    }
}

const fn cut(second: usize) -> bool {
    second >= SECONDS / 3 && second < 2 * SECONDS / 3
}

fn leader(second: usize, names: &[&str]) -> String {
    match second {
        20..=21 => String::new(),
        22.. => format!("{}-1", names[0]),
        _ => format!("{}-1", names[1]),
    }
}

fn spans(names: &[&str]) -> Vec<Span> {
    let span = |from_ms, until_ms, kind, what: String| Span { from_ms, until_ms, kind, what, regions: Vec::new() };
    vec![
        span(20_000, Some(40_000), SpanKind::Fault, format!("partition of {}", names[1])),
        span(45_000, None, SpanKind::Order, format!("drain {} --reason maintenance", names[0])),
    ]
}

fn region(index: usize, names: &[&str]) -> RegionSeries {
    let apart = |second| index == 1 && cut(second);
    let column = |value: &dyn Fn(usize) -> u64| (0..SECONDS).map(value).collect::<Vec<_>>();
    RegionSeries {
        region: names[index].to_owned(),
        sent: column(&|_| 60),
        forwarded: column(&|second| if apart(second) { 30 } else { 40 }),
        limited: column(&|second| 15 + (second % 5) as u64),
        unavailable: column(&|second| if apart(second) { 4 } else { 0 }),
        unanswered: column(&|second| u64::from(apart(second) && second < 24)),
        nodes_ready: vec![1; SECONDS],
        revision: column(&|second| 1 + u64::from(second > 45 + index)),
        mode: (0..SECONDS).map(|second| if cut(second) { ModeSeen::Degraded } else { ModeSeen::Healthy }).collect(),
        dns: (0..SECONDS)
            .map(|second| if index == 0 && second > 46 { DnsSeen::Draining } else { DnsSeen::Serving })
            .collect(),
        view_age_ms: (0..SECONDS)
            .map(|second| {
                let age = |peer: usize| match peer {
                    peer if peer == index => 0,
                    peer if cut(second) && (index == 1) != (peer == 1) => 100 + 1000 * (second - SECONDS / 3) as u64,
                    _ => 90 + (second * 7 % 31) as u64,
                };
                (0..names.len()).map(age).collect()
            })
            .collect(),
    }
}

fn limit(name: &str, names: &[&str], window_ms: u64, quota: u64) -> LimitSeries {
    let share = quota / names.len() as u64;
    let lent = |second: usize, index: usize| if index == 0 && !cut(second) { share / 5 } else { 0 };
    let region = |index: usize| LimitRegionSeries {
        region: names[index].to_owned(),
        admitted: vec![share; SECONDS],
        limited: (0..SECONDS).map(|second| 10 + (second % 3) as u64).collect(),
        degraded: (0..SECONDS).map(|second| if index == 1 && cut(second) { 3 } else { 0 }).collect(),
        rights: (0..SECONDS).map(|second| share - lent(second, index)).collect(),
        lent: (0..SECONDS).map(|second| lent(second, index)).collect(),
        borrowed: (0..SECONDS).map(|second| if index == 1 { lent(second, 0) } else { 0 }).collect(),
    };
    let slots = SECONDS as u64 * 1000 / window_ms;
    let slot = |slot: u64| SlotPoint {
        slot: 1_700_000_000 + slot,
        from_ms: slot * window_ms + 3,
        demand: quota * 3 / 2,
        admitted: vec![share; names.len()],
        bound: quota,
        quota,
    };
    LimitSeries {
        limit: name.to_owned(),
        quota,
        window_ms,
        regions: (0..names.len()).map(region).collect(),
        key: "everyone".to_owned(),
        slots: (0..slots).map(slot).collect(),
    }
}
