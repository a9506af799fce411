//! `shares` of a limit: how regions split its quota before they lend.

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::RegionId;

use crate::{
    Shares,
    decode::{choice, named, whole},
    fault::Report,
    gateway::Scope,
    tree::{Node, Value},
};

/// The words for a split; the other form is a mapping of weights.
pub(crate) const SHARE_WORDS: [&str; 2] = ["equal", "demand"];

pub(super) fn shares(node: &Node, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Shares> {
    if matches!(node.value, Value::Scalar(_)) {
        let word = choice(node, &SHARE_WORDS.map(|word| (word, word)), report)?;
        return Some(if word == "equal" { Shares::Equal } else { Shares::Demand });
    }
    let mut weights: BTreeMap<RegionId, u32> = BTreeMap::new();
    let mut named_regions = BTreeSet::new();
    let mut sound = true;
    for entry in named(node, "shares: { eu-west: 60, us-east: 40 }", MAX_WEIGHTS, report) {
        let region = scope.region(&entry.key, entry.key_at, report);
        let weight = whole(&entry.node, 0..=MAX_WEIGHT, report).and_then(|weight| u32::try_from(weight).ok());
        named_regions.extend(region.clone());
        match region.zip(weight) {
            Some((region, weight)) => drop(weights.insert(region, weight)),
            None => sound = false,
        }
    }
    if !sound {
        return None;
    }
    if weights.values().all(|weight| *weight == 0) {
        let remedy = "give at least one region a weight above 0".to_owned();
        report.fault(node.named_at, "`shares` sum to 0, so nothing could be admitted", remedy);
        return None;
    }
    let forgotten: Vec<&str> =
        scope.regions.ids().iter().filter(|id| !named_regions.contains(*id)).map(RegionId::as_str).collect();
    if !forgotten.is_empty() {
        let (names, each) = (forgotten.join(", "), forgotten.join(": 0, "));
        let remedy = format!("give them a weight; `{each}: 0` leaves them to what others lend");
        report.fault(node.named_at, format!("`shares` say nothing of {names}"), remedy);
        return None;
    }
    Some(Shares::Weights(weights))
}

/// Regions of one split.
const MAX_WEIGHTS: usize = 1000;

/// Weights are compared with each other, so a million tells any two shares apart that people would write down.
const MAX_WEIGHT: u64 = 1_000_000;
