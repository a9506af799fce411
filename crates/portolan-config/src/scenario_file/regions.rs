//! Reads where a scenario plays: a directory of region files, or regions in the scenario itself.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use portolan_model::{Coordinates, RegionId};

use crate::{
    Location, Region, RegionMap, RegionSource,
    decode::{Fields, Shape, duration, entry_name, items, list, named, region_id, string, whole},
    fault::Report,
    tree::{Node, Value},
};

/// The keys of one region of a scenario.
pub(crate) const REGION: Shape = Shape { what: "a region of a scenario", keys: &["nodes"] };

/// Where a scenario plays.
#[derive(Default)]
pub(super) struct Places {
    pub source: RegionSource,
    pub nodes: u32,
    pub nodes_of: BTreeMap<RegionId, u32>,
}

pub(super) fn decode(fields: &Fields<'_>, report: &mut Report<'_>) -> Places {
    let mut places = Places { nodes: 1, ..Places::default() };
    if let Some(node) = fields.get("nodes") {
        places.nodes = nodes(node, report).unwrap_or(1);
    }
    let inline = fields.get("regions").filter(|node| matches!(node.value, Value::Mapping(_)));
    if let Some(trips) = fields.get("rtt").filter(|_| inline.is_none()) {
        let message = "`rtt` belongs to regions that stand in the scenario";
        report.fault(trips.named_at, message, "name them under `regions`, or remove it".to_owned());
    }
    places.source = match fields.get("regions") {
        None => RegionSource::Unstated,
        Some(node) if inline.is_some() => match map(node, fields, &mut places.nodes_of, report) {
            Some(map) => RegionSource::Inline(Arc::new(map)),
            None => RegionSource::Unstated,
        },
        Some(node) => string(node, report).map_or(RegionSource::Unstated, RegionSource::Directory),
    };
    places
}

fn nodes(node: &Node, report: &mut Report<'_>) -> Option<u32> {
    whole(node, 1..=MAX_NODES, report).and_then(|nodes| u32::try_from(nodes).ok())
}

fn map(
    node: &Node,
    fields: &Fields<'_>,
    nodes_of: &mut BTreeMap<RegionId, u32>,
    report: &mut Report<'_>,
) -> Option<RegionMap> {
    let mut ids = Vec::new();
    for entry in named(node, "{ eu-west: {}, us-east: {} }", MAX_REGIONS, report) {
        let id = entry_name(entry, report).and_then(|name| RegionId::new(name.as_str()).ok());
        if !matches!(entry.node.value, Value::Null)
            && let Some(own) = Fields::open(&entry.node, &REGION, report)
            && let Some(count) = own.get("nodes").and_then(|node| nodes(node, report))
            && let Some(id) = &id
        {
            nodes_of.insert(id.clone(), count);
        }
        ids.extend(id);
    }
    if ids.is_empty() {
        report.fault(node.at, "`regions` names no region", "write for example { eu-west: {}, us-east: {} }".to_owned());
    }
    let mut map = RegionMap::default();
    let mut networks = BTreeMap::new();
    for (index, id) in ids.iter().enumerate() {
        let index = u8::try_from(index).ok()?;
        // Evenly around the equator, and networks that no one owns (RFC 2544).
        let longitude = f64::from(index) * 360.0 / ids.len() as f64 - 180.0;
        let coordinates = Coordinates::from_degrees(0.0, longitude).ok()?;
        let addresses = vec![IpAddr::from([198, 19, index, 1])];
        let title = id.to_string();
        map.insert(Region { id: id.clone(), title, coordinates, addresses, capacity: None });
        networks.insert(IpNet::new(IpAddr::from([198, 18, index, 0]), 24).ok()?, Location::In(id.clone()));
    }
    map.set_networks(networks);
    round_trips(node, fields, &mut map, report);
    Some(map)
}

fn round_trips(regions: &Node, fields: &Fields<'_>, map: &mut RegionMap, report: &mut Report<'_>) -> Option<()> {
    let ids = map.ids().to_vec();
    let pairs = || ids.iter().enumerate().flat_map(|(at, a)| ids[at + 1..].iter().map(move |b| (a, b)));
    let bounds = Duration::from_micros(1)..=Duration::from_secs(2);
    match fields.get("rtt") {
        None if ids.len() > 1 => {
            let message = "`regions` without the round trips between them";
            report.fault(regions.named_at, message, "add for example `rtt: 80ms`".to_owned());
        }
        None => {}
        Some(node) if matches!(node.value, Value::Scalar(_)) => {
            let rtt = duration(node, bounds, report)?;
            pairs().for_each(|(a, b)| _ = map.insert_rtt(a, b, rtt));
        }
        Some(node) => {
            for item in items(node, MAX_TRIPS, report)? {
                let Some(trip) = Fields::open(item, &crate::region_files::ROUND_TRIP, report) else { continue };
                let between = trip.require("between", "[us-east, eu-west]", report);
                let between = between.and_then(|node| list(node, 2, report, region_id));
                let rtt = trip.require("rtt", "75ms", report).and_then(|node| duration(node, bounds.clone(), report));
                match (between.as_deref(), rtt) {
                    (Some([a, b]), Some(rtt)) if a != b && ids.contains(a) && ids.contains(b) => {
                        map.insert_rtt(a, b, rtt);
                    }
                    (None, _) | (_, None) => {}
                    _ => {
                        let message = "a round trip is between two regions of the scenario";
                        report.fault(item.at, message, "name two that stand under `regions`".to_owned());
                    }
                }
            }
            for (a, b) in pairs().filter(|(a, b)| map.rtt(a, b).is_zero()) {
                let remedy = format!("add `- {{ between: [{a}, {b}], rtt: 75ms }}`");
                report.fault(node.named_at, format!("the round trip between {a} and {b} is missing"), remedy);
            }
        }
    }
    Some(())
}

/// Regions of a scenario.
const MAX_REGIONS: usize = 100;

/// Nodes of one region.
const MAX_NODES: u64 = 100;

/// Pairs of a hundred regions.
const MAX_TRIPS: usize = 5000;
