//! The worst case of every limit as an answer: fields are only ever added, and `version` rises if one ever changes.

use std::{collections::BTreeMap, time::Duration};

use portolan_config::{Algorithm, Budget, KeyPart, Limit, OnPartition, RegionMap, Snapshot, Window};
use portolan_limits::{Bound, Bounds, Case, Fleet, Promise};
use portolan_model::{Name, RegionId, render_duration};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    advice,
    nodes::{Nodes, ToldBy},
};

/// What one limit guarantees.
#[derive(Debug, Serialize)]
pub struct Forecast {
    /// Its name.
    pub name: Name,
    /// As the document has it: `600/min`, `100 at one time`.
    pub amount: String,
    /// What is counted apart, in words.
    pub counted: String,
    /// `static`, `open(1.5)`, …
    pub on_partition: String,
    /// What the figures are counted over: `1min`, `civil day in Europe/Berlin`; absent for a concurrency limit.
    pub window: Option<String>,
    /// Whether refusals are only counted.
    pub shadow: bool,
    /// The worst case in one sentence.
    pub verdict: String,
    /// The share of each region.
    pub shares: BTreeMap<RegionId, u64>,
    /// While every region hears every other.
    pub healthy: CaseAnswer,
    /// While some cannot.
    pub partition: CaseAnswer,
    /// In one window, by a region that hears no other for longer.
    pub refused_wrongly_alone: BoundAnswer,
    /// Admitted in one window by 2, 3, … parts of an open limit that each hear themselves at once.
    pub parts: Vec<u64>,
    /// What else can happen, by name.
    pub also: BTreeMap<&'static str, BoundAnswer>,
    /// Milliseconds for which a restarted region refuses at most; none where that depends on its other nodes.
    pub restart_ms: Option<u64>,
    /// Other budgets: the same promises with other amounts.
    pub plans: BTreeMap<String, BudgetAnswer>,
    /// Consumers with a budget of their own.
    pub overrides: BTreeMap<String, BudgetAnswer>,
    /// What to change, and why.
    pub advice: Vec<String>,
}

/// The worst case in one state of the network.
#[derive(Debug, Serialize)]
pub struct CaseAnswer {
    /// In one window; of a concurrency limit, at one time.
    pub admitted: BoundAnswer,
    /// In any span as long as a window.
    pub admitted_in_any_span: Option<BoundAnswer>,
    /// In one window, although the limit is not reached.
    pub refused_wrongly: BoundAnswer,
}

/// A figure and why.
#[derive(Debug, Serialize)]
pub struct BoundAnswer {
    /// Requests weighed by their cost; none where there is no bound.
    pub units: Option<u64>,
    /// The reason.
    pub why: String,
}

/// The figures of another budget of a limit.
#[derive(Debug, Serialize)]
pub struct BudgetAnswer {
    /// Its amount.
    pub quota: u64,
    /// In one window, healthy and in a partition; none of a limit in shadow.
    pub admitted: Option<u64>,
    /// In one window, in a partition; none of a limit in shadow.
    pub admitted_in_a_partition: Option<u64>,
    /// In a partition, in one window.
    pub refused_wrongly_in_a_partition: u64,
    /// The same by a region that hears no other for longer.
    pub refused_wrongly_alone: u64,
    /// What the smallest region owns, if a request may cost more.
    pub costly_request: Option<u64>,
}

/// The worst case of every limit of `snapshot`, by name.
pub fn of(snapshot: &Snapshot, regions: &RegionMap, nodes: Nodes) -> Vec<Forecast> {
    snapshot.limits.values().map(|limit| forecast(limit, regions, nodes)).collect()
}

/// The fleet that the figures are for.
pub fn fleet_answer(regions: &RegionMap, fleet: &Fleet, nodes: Nodes) -> Value {
    json!({
        "regions": regions.ids(),
        "nodes_per_region": fleet.nodes,
        "nodes_told_by": nodes.told_by,
        "worst_round_trip_ms": millis(fleet.worst_rtt),
        "gossip_ms": millis(fleet.gossip),
        "unheard_after_ms": millis(fleet.staleness),
        "loan_after_ms": millis(fleet.until_lent()),
        "clocks_within_ms": millis(fleet.clock_tolerance),
    })
}

fn forecast(limit: &Limit, regions: &RegionMap, nodes: Nodes) -> Forecast {
    let fleet = &Fleet::of(regions, nodes.most);
    let promise = Promise::of(limit, regions);
    let mut bounds = Bounds::of(&promise, fleet);
    let mut verdict = verdict(limit, &bounds);
    if nodes.told_by == ToldBy::Nobody && !limit.shadow {
        bounds.cut_node = Bounds::of(&promise, &Fleet { nodes: 2, ..fleet.clone() }).cut_node;
        verdict += &of_further_nodes(&bounds);
    }
    let shares: BTreeMap<RegionId, u64> = regions.ids().iter().cloned().zip(promise.shares(fleet)).collect();
    let budget = |quotas: &BTreeMap<String, u64>| {
        quotas.iter().map(|(name, quota)| (name.clone(), budget(&promise, *quota, fleet))).collect()
    };
    let advice = advice::of(limit, &promise, &bounds, fleet);
    let also = if limit.shadow { Vec::new() } else { also(&bounds) };
    let also = also.into_iter().filter_map(|(name, bound)| Some((name, answer(bound?)))).collect();
    Forecast {
        name: limit.name.clone(),
        amount: limit.algorithm.to_string(),
        counted: counted(limit),
        on_partition: limit.on_partition.to_string(),
        window: window(&limit.algorithm),
        shadow: limit.shadow,
        verdict,
        shares,
        healthy: case(limit, bounds.healthy),
        partition: case(limit, bounds.partition),
        refused_wrongly_alone: answer(bounds.refused_alone),
        parts: if limit.shadow { Vec::new() } else { bounds.parts },
        also,
        restart_ms: if limit.shadow { Some(0) } else { bounds.restart_lasts.map(millis) },
        plans: limit.plans.as_ref().map_or_else(BTreeMap::new, |plans| budget(&plans.quotas)),
        overrides: budget(&limit.overrides),
        advice,
    }
}

/// What else can happen.
fn also(bounds: &Bounds) -> Vec<(&'static str, Option<Bound>)> {
    let Bounds { overdraft, estimate, skewed, cut_node, failover, costly, dead_region, restart, .. } = bounds.clone();
    vec![
        ("overdraft", overdraft),
        ("sliding_estimate", estimate),
        ("clocks_apart", skewed),
        ("node_cut_off", cut_node),
        ("lender_failover", failover),
        ("costly_request", costly),
        ("dead_region", Some(dead_region)),
        ("restart", Some(restart)),
    ]
}

fn budget(promise: &Promise, quota: u64, fleet: &Fleet) -> BudgetAnswer {
    let promise = Promise { algorithm: promise.algorithm.with_quota(quota), ..promise.clone() };
    let bounds = Bounds::of(&promise, fleet);
    let enforced = |units| (!promise.shadow).then_some(units);
    BudgetAnswer {
        quota,
        admitted: enforced(bounds.healthy.admitted_per_slot.units),
        admitted_in_a_partition: enforced(bounds.partition.admitted_per_slot.units),
        refused_wrongly_in_a_partition: bounds.partition.refused_wrongly.units,
        refused_wrongly_alone: bounds.refused_alone.units,
        costly_request: bounds.costly.map(|bound| bound.units),
    }
}

/// A limit in shadow bounds nothing.
fn case(limit: &Limit, case: Case) -> CaseAnswer {
    let admitted = |bound| if limit.shadow { unbounded() } else { answer(bound) };
    CaseAnswer {
        admitted: admitted(case.admitted_per_slot),
        admitted_in_any_span: case.admitted_in_any_window.map(admitted),
        refused_wrongly: answer(case.refused_wrongly),
    }
}

fn answer(Bound { units, why }: Bound) -> BoundAnswer {
    BoundAnswer { units: Some(units), why }
}

fn unbounded() -> BoundAnswer {
    BoundAnswer { units: None, why: "refusals are only counted: every request passes".to_owned() }
}

/// The worst case in one sentence, for somebody who reads nothing else.
fn verdict(limit: &Limit, bounds: &Bounds) -> String {
    if limit.shadow {
        return "Enforces nothing: what it would refuse is only counted.".to_owned();
    }
    let (healthy, partition) = (bounds.healthy.admitted_per_slot.units, bounds.partition.admitted_per_slot.units);
    let per = window(&limit.algorithm).map_or_else(|| "at one time".to_owned(), |window| format!("per {window}"));
    if let Some(Bound { units, .. }) = &bounds.cut_node {
        return format!(
            "At most {healthy} {per} while all is well; up to {units} while a node is cut from its region."
        );
    }
    match limit.on_partition {
        _ if healthy == partition && healthy > bounds.quota && bounds.overdraft.is_some() => {
            format!("At most {healthy} {per}, overdraft included, whatever is cut off.")
        }
        OnPartition::Open { .. } if partition > healthy => {
            let parts = match bounds.parts.first() {
                Some(two) if *two < partition => {
                    format!(" ({two} in two parts whose regions hear each other)")
                }
                _ => String::new(),
            };
            format!("At most {healthy} {per} while all is well; up to {partition} while regions are cut off{parts}.")
        }
        OnPartition::Closed => {
            format!("Never more than {healthy} {per}; refuses everything while a region is unheard.")
        }
        OnPartition::ClosedMinority => {
            format!("Never more than {healthy} {per}; parts with at most half of the shares refuse everything.")
        }
        _ => format!("Never more than {healthy} {per}, whatever is cut off."),
    }
}

/// What a verdict about one node in each region leaves out.
fn of_further_nodes(bounds: &Bounds) -> String {
    let more = |cut: &Bound| cut.units - bounds.partition.admitted_per_slot.units.min(cut.units);
    let told = |cut: &Bound| {
        format!(
            " That is with one node in each region: where one has several, each that is cut from it may add up to {} until \
             its work is done.",
            more(cut)
        )
    };
    bounds.cut_node.as_ref().map(told).unwrap_or_default()
}

fn counted(limit: &Limit) -> String {
    let part = |part: &KeyPart| match part {
        KeyPart::Global => "all requests together".to_owned(),
        KeyPart::Service => "service".to_owned(),
        KeyPart::Route => "route".to_owned(),
        KeyPart::User => "user".to_owned(),
        KeyPart::ClientAddress { v6_prefix } => format!("client address (IPv6 by /{v6_prefix})"),
        KeyPart::Header(name) => format!("value of header {name}"),
        KeyPart::Claim(name) => format!("value of claim {name}"),
    };
    let parts: Vec<String> = limit.key.parts().iter().map(part).collect();
    let global = limit.key.parts().contains(&KeyPart::Global);
    let words = if global { parts.join("") } else { format!("each {}", parts.join(" and ")) };
    let of_route = limit.per == Budget::Route && !limit.key.parts().contains(&KeyPart::Route);
    format!("for {words}{}", if of_route { ", on each route" } else { "" })
}

/// What figures are counted over.
pub fn window(algorithm: &Algorithm) -> Option<String> {
    Some(match algorithm {
        Algorithm::FixedWindow { window: Window::Calendar { period, zone }, .. } => {
            format!("civil {} ({zone})", period.as_str())
        }
        Algorithm::Concurrency { .. } => return None,
        other => render_duration(other.window()),
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
