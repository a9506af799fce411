//! Turns what a run recorded into lanes: clients first, then faults and policies, each limit, what the regions know of
//! each other, and control. Decides what is shown and in which order, and nothing about how it is drawn.

use super::figure::{Band, Curve, Drawing, Figure, Fold, Group, Lane, Span, Style, Tone};
use crate::{
    outcome::Outcome,
    series::{self, LimitRegionSeries, LimitSeries, ModeSeen, RegionSeries, Series, SpanKind},
};

/// Peers that have curves of their own; of more, the one unheard longest is drawn.
const MAX_PEERS: usize = 8;

/// Builds the lanes of a run. Empty for a run that recorded nothing. Of the regions, `most` have lanes of their own: those
/// whose clients fared worst; the others are part of the totals.
pub fn figure(outcome: &Outcome, most: usize) -> Figure {
    let series = &outcome.series;
    let shown = &worst_off(series, most);
    let faults = series.spans.iter().filter(|span| span.kind == SpanKind::Fault);
    let mut figure = Figure { step_ms: series.step_ms.max(1), steps: series.points, ..Figure::default() };
    if series.points == 0 {
        return figure;
    }
    let end = figure.end_ms();
    figure.bands = faults.map(|span| Band { from_ms: span.from_ms, to_ms: until(span, end) }).collect();
    figure.groups.push(happened(outcome, end, shown));
    figure.groups.push(clients(series, shown));
    for limit in &series.limits {
        figure.groups.push(limit_group(series, limit, shown));
    }
    figure.groups.extend(knowledge(series, shown));
    figure.groups.push(control(series, end, shown));
    figure
}

/// Places of regions in the order of names, no more than `most`.
fn worst_off(series: &Series, most: usize) -> Vec<usize> {
    let lost = |region: &RegionSeries| region.unavailable.iter().chain(&region.unanswered).sum::<u64>();
    let mut places: Vec<usize> = (0..series.regions.len()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(lost(&series.regions[*place])));
    places.truncate(most);
    places.sort_unstable();
    places
}

/// Where a span ends on an axis of this length.
fn until(span: &series::Span, end: u64) -> u64 {
    let open = if span.kind == SpanKind::Fault { end } else { span.from_ms };
    span.until_ms.unwrap_or(open).min(end)
}

/// Faults, orders and policies.
fn happened(outcome: &Outcome, end: u64, shown: &[usize]) -> Group {
    let series = &outcome.series;
    let of_kind = |kind, row: &str, tone| {
        let spans = series.spans.iter().filter(move |span| span.kind == kind);
        let span = move |span: &series::Span| Span {
            row: row.to_owned(),
            from_ms: span.from_ms,
            to_ms: until(span, end),
            tone,
            label: span.what.clone(),
        };
        spans.map(span).collect::<Vec<_>>()
    };
    let mut spans = of_kind(SpanKind::Fault, "faults", Tone::Bad);
    spans.extend(of_kind(SpanKind::Load, "load", Tone::Limited));
    spans.extend(of_kind(SpanKind::Order, "orders", Tone::Order));
    let broken = |violation: &crate::outcome::Violation| Span {
        row: "broken".to_owned(),
        from_ms: violation.at_ms.min(end),
        to_ms: violation.at_ms.min(end),
        tone: Tone::Bad,
        label: violation.invariant.words().to_owned(),
    };
    spans.extend(outcome.violations.iter().map(broken));
    let mut lanes = vec![Lane {
        title: "Faults and orders".to_owned(),
        unit: "by the scenario".to_owned(),
        top: None,
        drawing: Drawing::Spans(spans),
    }];
    lanes.push(Lane {
        title: "Policy in force".to_owned(),
        unit: "weakest mode".to_owned(),
        top: None,
        drawing: Drawing::Spans(states(series, shown, |region| &region.mode, mode)),
    });
    Group {
        title: "What happened".to_owned(),
        note: "Shaded in every lane below: the time of a fault.".to_owned(),
        open: true,
        lanes,
    }
}

/// How a mode reads; a healthy region needs no mark.
fn mode(mode: ModeSeen) -> Option<(Tone, &'static str)> {
    match mode {
        ModeSeen::Healthy => None,
        ModeSeen::Unsettled => Some((Tone::Healing, "unsettled")),
        ModeSeen::Degraded => Some((Tone::Degraded, "partition policy")),
        ModeSeen::Down => Some((Tone::Bad, "no node runs")),
    }
}

/// Spans of equal states, one row per region.
fn states<T: Copy + PartialEq>(
    series: &Series,
    shown: &[usize],
    column: impl Fn(&RegionSeries) -> &Vec<T>,
    words: impl Fn(T) -> Option<(Tone, &'static str)>,
) -> Vec<Span> {
    let mut spans = Vec::new();
    for region in shown.iter().map(|place| &series.regions[*place]) {
        let values = column(region);
        for (from, to) in runs(values) {
            let Some((tone, label)) = words(values[from]) else { continue };
            spans.push(Span {
                row: region.region.clone(),
                from_ms: from as u64 * series.step_ms,
                to_ms: to as u64 * series.step_ms,
                tone,
                label: label.to_owned(),
            });
        }
    }
    spans
}

/// First and one past the last index of every stretch of equal values.
fn runs<T: PartialEq>(values: &[T]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, value) in values.iter().enumerate() {
        match runs.last_mut() {
            Some((from, to)) if values[*from] == *value => *to = index + 1,
            _ => runs.push((index, index + 1)),
        }
    }
    runs
}

/// What clients got, in requests per second.
fn clients(series: &Series, shown: &[usize]) -> Group {
    let lane = |title: &str, regions: &[&RegionSeries]| {
        let per_second = |name: &str, tone, column: fn(&RegionSeries) -> &Vec<u64>| Curve {
            name: name.to_owned(),
            tone,
            style: Style::Stacked,
            fold: Fold::Mean,
            values: rate(&sum(regions.iter().map(|region| column(region)), series.points), series.step_ms),
        };
        Lane {
            title: title.to_owned(),
            unit: "requests/s".to_owned(),
            top: None,
            drawing: Drawing::Curves(vec![
                per_second("forwarded", Tone::Good, |region| &region.forwarded),
                per_second("429", Tone::Limited, |region| &region.limited),
                per_second("503", Tone::Degraded, |region| &region.unavailable),
                per_second("no answer", Tone::Bad, |region| &region.unanswered),
            ]),
        }
    };
    let all: Vec<&RegionSeries> = series.regions.iter().collect();
    let mut lanes = vec![lane("all regions", &all)];
    lanes.extend(shown.iter().map(|place| lane(&all[*place].region, &all[*place..=*place])));
    one_scale(&mut lanes[1..]);
    Group {
        title: "What clients got".to_owned(),
        note: "By the region that answered, or should have.".to_owned(),
        open: true,
        lanes,
    }
}

fn sum<'a>(columns: impl Iterator<Item = &'a Vec<u64>>, points: usize) -> Vec<u64> {
    let mut total = vec![0; points];
    for column in columns {
        for (total, value) in total.iter_mut().zip(column) {
            *total += value;
        }
    }
    total
}

/// Counts per point as counts per second.
fn rate(counts: &[u64], step_ms: u64) -> Vec<Option<u64>> {
    counts.iter().map(|count| Some((count * 1000 + step_ms / 2) / step_ms)).collect()
}

/// One limit: its slots in total, then each region with its rights and loans.
fn limit_group(series: &Series, limit: &LimitSeries, shown: &[usize]) -> Group {
    let refused = |region: &LimitRegionSeries| region.limited.iter().chain(&region.degraded).any(|count| *count > 0);
    let window = if limit.window_ms == 0 {
        "in flight".to_owned()
    } else {
        format!("units per slot of {}", span(limit.window_ms))
    };
    let mut lanes = Vec::new();
    if !limit.slots.is_empty() {
        lanes.push(slots_lane(series, limit, &window));
        let regions = limit.regions.iter().enumerate().filter(|(index, _)| shown.contains(index));
        lanes.extend(regions.map(|(index, region)| rights_lane(series, limit, index, region, &window)));
        one_scale(&mut lanes[1..]);
    }
    lanes.push(decided_lane(series, limit));
    let key =
        if limit.key.is_empty() { String::new() } else { format!(" Slots are those of {}, asked most.", limit.key) };
    Group {
        title: format!("Limit {}: {} per {}", limit.limit, limit.quota, span(limit.window_ms)),
        note: format!("Admitted against the limit, counted outside the ledger.{key}"),
        open: limit.regions.iter().any(refused),
        lanes,
    }
}

/// The slots of the hottest key over all regions, against quota and bound.
fn slots_lane(series: &Series, limit: &LimitSeries, unit: &str) -> Lane {
    let mut curves: Vec<Curve> = Vec::new();
    for (index, region) in limit.regions.iter().enumerate() {
        curves.push(Curve {
            name: region.region.clone(),
            tone: Tone::Region(index),
            style: Style::Stacked,
            fold: Fold::Most,
            values: by_step(series, limit, |slot| slot.admitted.get(index).copied().unwrap_or_default()),
        });
    }
    curves.push(Curve {
        name: "limit".to_owned(),
        tone: Tone::Bound,
        style: Style::Line,
        fold: Fold::Most,
        values: by_step(series, limit, |slot| slot.quota),
    });
    let fullest =
        limit.slots.iter().map(|slot| slot.admitted.iter().sum::<u64>().max(slot.quota)).max().unwrap_or_default();
    // A bound far above everything would flatten what there is to see; the note has it.
    if limit.slots.iter().any(|slot| slot.bound != slot.quota && slot.bound <= 2 * fullest) {
        curves.push(Curve {
            name: "policy allows".to_owned(),
            tone: Tone::Bound,
            style: Style::Dashed,
            fold: Fold::Most,
            values: by_step(series, limit, |slot| slot.bound),
        });
    }
    Lane { title: "all regions".to_owned(), unit: unit.to_owned(), top: None, drawing: Drawing::Curves(curves) }
}

/// One region's part of the same slots, against what it may spend.
fn rights_lane(series: &Series, limit: &LimitSeries, index: usize, region: &LimitRegionSeries, unit: &str) -> Lane {
    let mut curves = vec![Curve {
        name: "admitted".to_owned(),
        tone: Tone::Region(index),
        style: Style::Area,
        fold: Fold::Most,
        values: by_step(series, limit, |slot| slot.admitted.get(index).copied().unwrap_or_default()),
    }];
    let measured = [
        ("rights", Tone::Bound, Style::Line, &region.rights),
        ("borrowed", Tone::Healing, Style::Dashed, &region.borrowed),
        ("lent", Tone::Limited, Style::Dashed, &region.lent),
    ];
    for (name, tone, style, values) in measured {
        if !values.is_empty() && (name == "rights" || values.iter().any(|value| *value > 0)) {
            let values = values.iter().map(|value| Some(*value)).collect();
            curves.push(Curve { name: name.to_owned(), tone, style, fold: Fold::Last, values });
        }
    }
    Lane { title: region.region.clone(), unit: unit.to_owned(), top: None, drawing: Drawing::Curves(curves) }
}

/// Decisions under a limit over all its keys.
fn decided_lane(series: &Series, limit: &LimitSeries) -> Lane {
    let curve = |name: &str, tone, column: fn(&LimitRegionSeries) -> &Vec<u64>| Curve {
        name: name.to_owned(),
        tone,
        style: Style::Stacked,
        fold: Fold::Mean,
        values: rate(&sum(limit.regions.iter().map(column), series.points), series.step_ms),
    };
    Lane {
        title: "all keys".to_owned(),
        unit: "units/s".to_owned(),
        top: None,
        drawing: Drawing::Curves(vec![
            curve("admitted", Tone::Good, |region| &region.admitted),
            curve("refused 429", Tone::Limited, |region| &region.limited),
            curve("refused 503", Tone::Degraded, |region| &region.degraded),
        ]),
    }
}

/// For each step the slot that began in it, the fullest of several; else the one still open.
fn by_step(series: &Series, limit: &LimitSeries, value: impl Fn(&series::SlotPoint) -> u64) -> Vec<Option<u64>> {
    let total = |slot: &&series::SlotPoint| slot.admitted.iter().sum::<u64>();
    let (mut next, mut open) = (0, None);
    let step = |step: usize| {
        let (from, to) = (step as u64 * series.step_ms, (step as u64 + 1) * series.step_ms);
        let first = next;
        while limit.slots.get(next).is_some_and(|slot| slot.from_ms < to) {
            next += 1;
        }
        if next > first {
            open = limit.slots.get(next - 1);
        }
        let begun = limit.slots[first..next].iter().max_by_key(total);
        begun.or_else(|| open.filter(|slot| slot.from_ms + limit.window_ms > from)).map(&value)
    };
    (0..series.points).map(step).collect()
}

/// How old each region's view of the others is, and how DNS sees the regions.
fn knowledge(series: &Series, shown: &[usize]) -> Option<Group> {
    let measured = series.regions.len() > 1 && series.regions.iter().any(|region| !region.view_age_ms.is_empty());
    let mut lanes = Vec::new();
    for region in shown.iter().map(|place| &series.regions[*place]).filter(|_| measured) {
        let others = series.regions.iter().enumerate().filter(|(_, peer)| peer.region != region.region);
        let down = |point: usize| region.mode.get(point) == Some(&ModeSeen::Down);
        let age =
            |index: usize, point: usize| region.view_age_ms.get(point)?.get(index).copied().filter(|_| !down(point));
        let curve = |(index, peer): (usize, &RegionSeries)| Curve {
            name: peer.region.clone(),
            tone: Tone::Region(index),
            style: Style::Line,
            fold: Fold::Most,
            values: (0..series.points).map(|point| age(index, point)).collect(),
        };
        let oldest = |point: usize| (0..series.regions.len()).filter_map(|peer| age(peer, point)).max();
        let curves = match series.regions.len() {
            0..=MAX_PEERS => others.map(curve).collect(),
            _ => vec![Curve {
                name: "longest unheard".to_owned(),
                tone: Tone::Degraded,
                style: Style::Line,
                fold: Fold::Most,
                values: (0..series.points).map(oldest).collect(),
            }],
        };
        lanes.push(Lane {
            title: format!("{} hears", region.region),
            unit: "ms since last word".to_owned(),
            top: None,
            drawing: Drawing::Curves(curves),
        });
    }
    one_scale(&mut lanes);
    lanes.push(Lane {
        title: "DNS".to_owned(),
        unit: "not sent to".to_owned(),
        top: None,
        drawing: Drawing::Spans(states(
            series,
            shown,
            |region| &region.dns,
            |dns| match dns {
                series::DnsSeen::Serving => None,
                series::DnsSeen::Draining => Some((Tone::Order, "drained")),
                series::DnsSeen::Down => Some((Tone::Bad, "down")),
            },
        )),
    });
    (!series.regions.is_empty()).then(|| Group {
        title: "What the regions know of each other".to_owned(),
        note: "Age of the newest word from each peer. A limit's policy for partitions follows from it.".to_owned(),
        open: true,
        lanes,
    })
}

/// Leader and revisions.
fn control(series: &Series, end: u64, shown: &[usize]) -> Group {
    let region_of = |leader: &str| {
        let leads = |region: &RegionSeries| {
            leader
                .strip_prefix(region.region.as_str())
                .is_some_and(|rest| rest.starts_with('-') && !rest[1..].contains('-'))
        };
        series.regions.iter().position(leads)
    };
    let leader = |(from, to): (usize, usize)| {
        let name = &series.leader[from];
        let (tone, label) = match region_of(name) {
            _ if name.is_empty() => (Tone::Bad, "nobody".to_owned()),
            region => (Tone::Region(region.unwrap_or_default()), name.clone()),
        };
        let (from_ms, to_ms) = (from as u64 * series.step_ms, (to as u64 * series.step_ms).min(end));
        Span { row: "leader".to_owned(), from_ms, to_ms, tone, label }
    };
    let revision = |(index, region): (usize, &RegionSeries)| Curve {
        name: region.region.clone(),
        tone: Tone::Region(index),
        style: Style::Line,
        fold: Fold::Last,
        values: region.revision.iter().map(|revision| (*revision > 0).then_some(*revision)).collect(),
    };
    let lanes = vec![
        Lane {
            title: "Leader".to_owned(),
            unit: "of Raft".to_owned(),
            top: None,
            drawing: Drawing::Spans(runs(&series.leader).into_iter().map(leader).collect()),
        },
        Lane {
            title: "Revision".to_owned(),
            unit: "oldest in force in the region".to_owned(),
            top: None,
            drawing: Drawing::Curves(shown.iter().map(|place| revision((*place, &series.regions[*place]))).collect()),
        },
    ];
    Group {
        title: "Control".to_owned(),
        note: "Limits, routes and DNS go on without a leader; changes of the configuration wait for one.".to_owned(),
        open: true,
        lanes,
    }
}

/// Gives lanes of one unit one scale, so that regions can be compared.
fn one_scale(lanes: &mut [Lane]) {
    let top = lanes.iter().map(Lane::top).max();
    lanes.iter_mut().for_each(|lane| lane.top = top);
}

/// A length of time in its largest whole unit.
pub fn span(millis: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    let whole = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    whole.map_or(format!("{millis} ms"), |(unit, name)| format!("{} {name}", millis / unit))
}
