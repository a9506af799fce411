//! Reads the files of a regions directory: one per region, the round trips between them, the networks of clients. What a
//! file is shows in its keys, not in its name; a region's file is named like the region all the same.

use std::{collections::BTreeMap, time::Duration};

use ipnet::IpNet;
use portolan_model::{Coordinates, RegionId};

use crate::{
    Fault, Faults, Location, MAX_REGIONS, Region, RegionMap, SourceFile,
    decode::{self, Fields, Shape, dangling, duration, items, parsed, region_id, string, text},
    fault::{Report, Span},
    syntax,
    tree::{Node, Value},
};

/// The keys of a region's file.
pub(crate) const REGION: Shape =
    Shape { what: "a region", keys: &["version", "region", "title", "coordinates", "addresses", "capacity"] };

/// The keys of a place.
pub(crate) const COORDINATES: Shape = Shape { what: "a place", keys: &["latitude", "longitude"] };

/// The keys of the file with round trips.
pub(crate) const ROUND_TRIPS: Shape = Shape { what: "a file of round trips", keys: &["version", "rtt"] };

/// The keys of one round trip.
pub(crate) const ROUND_TRIP: Shape = Shape { what: "a round trip", keys: &["between", "rtt"] };

/// The keys of the file with networks.
pub(crate) const NETWORKS: Shape = Shape { what: "a file of networks", keys: &["version", "networks"] };

/// The keys of one network.
pub(crate) const NETWORK: Shape = Shape { what: "a network", keys: &["prefix", "region", "near", "title"] };

/// A file that was read into a tree.
struct Parsed<'a> {
    report: Report<'a>,
    root: Option<Node>,
}

/// Reads all files of a regions directory, or returns all their faults.
pub(crate) fn parse(files: &[SourceFile]) -> Result<RegionMap, Faults> {
    let mut parsed: Vec<Parsed<'_>> = files.iter().map(read).collect();
    let mut map = RegionMap::default();
    for file in parsed.iter_mut().filter(|file| !is(file, "rtt") && !is(file, "networks")) {
        let Some(root) = &file.root else { continue };
        let Some(region) = region(root, &mut file.report) else { continue };
        if map.ids().len() == MAX_REGIONS && map.get(&region.id).is_none() {
            let message = format!("region `{}` is one too many: limits are shared by {MAX_REGIONS} at most", region.id);
            file.report.fault(Span::START, message, "serve its clients from another region".to_owned());
            continue;
        }
        if map.get(&region.id).is_some() {
            let message = format!("region `{}` is defined by another file already", region.id);
            file.report.fault(Span::START, message, "remove one of the files".to_owned());
        }
        map.insert(region);
    }
    // A region file with faults would turn every mention of the region into one more.
    let whole = parsed.iter_mut().all(|file| file.root.is_some() && file.report.is_empty());
    for file in parsed.iter_mut().filter(|file| whole && (is(file, "rtt") || is(file, "networks"))) {
        let (Some(root), trips) = (&file.root, is(file, "rtt")) else { continue };
        let _ = if trips {
            round_trips(root, &mut map, &mut file.report)
        } else {
            networks(root, &mut map, &mut file.report)
        };
    }
    let mut faults: Vec<Fault> = parsed.iter_mut().flat_map(|file| file.report.take().0).collect();
    if faults.is_empty() {
        faults = missing(&map, files);
    }
    if faults.is_empty() { Ok(map) } else { Err(Faults(faults)) }
}

fn read(file: &SourceFile) -> Parsed<'_> {
    let mut report = Report::new(file);
    let root = syntax::parse(&mut report);
    Parsed { report, root }
}

/// Whether a file has this key at its top.
fn is(file: &Parsed<'_>, key: &str) -> bool {
    let Some(Value::Mapping(entries)) = file.root.as_ref().map(|root| &root.value) else { return false };
    entries.iter().any(|entry| &*entry.key == key)
}

fn region(root: &Node, report: &mut Report<'_>) -> Option<Region> {
    let fields = Fields::open(root, &REGION, report)?;
    fields.check_version(report);
    let id_node = fields.require("region", "eu-west", report);
    let id = id_node.and_then(|node| region_id(node, report));
    if let (Some(id), Some(node)) = (&id, id_node) {
        let path = &report.file().path;
        let file_name = path.rsplit(['/', '\\']).next().unwrap_or(path);
        if file_name.split('.').next() != Some(id.as_str()) {
            let message = format!("{} stands in a file named `{file_name}`", node.quoted());
            report.fault(node.at, message, format!("name the file `{id}.yaml`"));
        }
    }
    let title = fields.require("title", "Dublin, Ireland", report).and_then(|node| string(node, report));
    let example = "{ latitude: 53.35, longitude: -6.26 }";
    let coordinates = fields.require("coordinates", example, report).and_then(|node| coordinates(node, report));
    let addresses = fields.require("addresses", "[192.0.2.1]", report).and_then(|node| {
        if decode::is_empty_list(node) {
            let remedy = "list what DNS shall answer, e.g. [192.0.2.1]".to_owned();
            report.fault(node.at, "`addresses` is empty", remedy);
        }
        decode::list(node, MAX_ADDRESSES, report, |n, r| parsed(n, "an IP address", "write for example 192.0.2.1", r))
    });
    let capacity = fields.optional("capacity", None, report, |node, report| decode::rate(node, report).map(Some));
    Some(Region { id: id?, title: title?, coordinates: coordinates?, addresses: addresses?, capacity })
}

fn coordinates(node: &Node, report: &mut Report<'_>) -> Option<Coordinates> {
    let fields = Fields::open(node, &COORDINATES, report)?;
    let degrees = |node: &Node, limit: f64, report: &mut Report<'_>| {
        let degrees: f64 = parsed(node, "a number of degrees", "write for example 53.35", report)?;
        if !(-limit..=limit).contains(&degrees) {
            let remedy = format!("write degrees from -{limit} to {limit}, north and east positive");
            report.fault(node.at, format!("{} is off the globe", node.quoted()), remedy);
            return None;
        }
        Some(degrees)
    };
    let latitude = fields.require("latitude", "53.35", report).and_then(|node| degrees(node, 90.0, report));
    let longitude = fields.require("longitude", "-6.26", report).and_then(|node| degrees(node, 180.0, report));
    Coordinates::from_degrees(latitude?, longitude?).ok()
}

fn round_trips(root: &Node, map: &mut RegionMap, report: &mut Report<'_>) -> Option<()> {
    let fields = Fields::open(root, &ROUND_TRIPS, report)?;
    fields.check_version(report);
    for item in items(fields.get("rtt")?, MAX_ROUND_TRIPS, report)? {
        let Some(fields) = Fields::open(item, &ROUND_TRIP, report) else { continue };
        let between = fields.require("between", "[us-east, eu-west]", report);
        let rtt = fields
            .require("rtt", "75ms", report)
            .and_then(|node| duration(node, Duration::from_micros(1)..=MAX_RTT, report));
        let Some(between) = between else { continue };
        let pair = decode::list(between, 2, report, |node, report| known_region(node, map, report)).unwrap_or_default();
        match (&pair[..], &between.value) {
            ([a, b], _) if a != b => {
                if rtt.is_some_and(|rtt| map.insert_rtt(a, b, rtt)) {
                    let message = format!("the round trip between {a} and {b} stands twice");
                    report.fault(item.at, message, "keep one of them".to_owned());
                }
            }
            // Unknown names, and what is not a list, were told already.
            (_, Value::Sequence(names)) if names.len() == 2 && pair.len() < 2 => {}
            (_, Value::Scalar(_) | Value::Null) => {}
            _ => report.fault(between.at, "a round trip is between two regions", "write [us-east, eu-west]".to_owned()),
        }
    }
    Some(())
}

fn networks(root: &Node, map: &mut RegionMap, report: &mut Report<'_>) -> Option<()> {
    let fields = Fields::open(root, &NETWORKS, report)?;
    fields.check_version(report);
    let mut networks: BTreeMap<IpNet, Location> = BTreeMap::new();
    for item in items(fields.get("networks")?, MAX_NETWORKS, report)? {
        let Some(fields) = Fields::open(item, &NETWORK, report) else { continue };
        let prefix_node = fields.require("prefix", "192.0.2.0/24", report);
        let prefix = prefix_node.and_then(|node| prefix(node, report));
        let _title = fields.optional("title", String::new(), report, string);
        let region_node = fields.get("region");
        let region = region_node.and_then(|node| known_region(node, map, report)).map(Location::In);
        let near_node = fields.get("near");
        let near = near_node.and_then(|node| coordinates(node, report)).map(Location::At);
        if region_node.is_some() == near_node.is_some() {
            let message = "a network has either `region` or `near`";
            report.fault(item.at, message, "keep the region that serves it, or the place it is at".to_owned());
        }
        let (Some(prefix), Some(location)) = (prefix, region.or(near)) else { continue };
        if networks.insert(prefix, location).is_some() {
            report.fault(item.at, format!("`{prefix}` stands twice"), "keep one of them".to_owned());
        }
    }
    map.set_networks(networks);
    Some(())
}

fn prefix(node: &Node, report: &mut Report<'_>) -> Option<IpNet> {
    let word = text(node, report)?;
    let Ok(prefix) = word.parse::<IpNet>() else {
        let remedy = "write for example 192.0.2.0/24 or 2001:db8::/48".to_owned();
        report.fault(node.at, format!("{} is not a network prefix", node.quoted()), remedy);
        return None;
    };
    if prefix != prefix.trunc() {
        let message = format!("{} has bits set behind its length", node.quoted());
        report.fault(node.at, message, format!("write {}", prefix.trunc()));
        return None;
    }
    Some(prefix)
}

fn known_region(node: &Node, map: &RegionMap, report: &mut Report<'_>) -> Option<RegionId> {
    let id = region_id(node, report)?;
    if map.get(&id).is_none() {
        dangling(node, "region", map.ids().iter().map(RegionId::as_str), report);
        return None;
    }
    Some(id)
}

/// What shows only when all files are together.
fn missing(map: &RegionMap, files: &[SourceFile]) -> Vec<Fault> {
    let nowhere = SourceFile { path: "regions".to_owned(), text: String::new() };
    let trips = files.iter().find(|file| is(&read(file), "rtt"));
    let mut report = Report::new(trips.or(files.first()).unwrap_or(&nowhere));
    if map.ids().is_empty() {
        report.fault(Span::START, "no region is defined", "add a file such as eu-west.yaml".to_owned());
    }
    for (index, a) in map.ids().iter().enumerate() {
        for b in map.ids()[index + 1..].iter().filter(|b| map.rtt(a, b).is_zero()) {
            let remedy = format!("add to rtt.yaml `- {{ between: [{a}, {b}], rtt: 75ms }}`");
            report.fault(Span::START, format!("the round trip between {a} and {b} is missing"), remedy);
        }
    }
    let mut owners = BTreeMap::new();
    for (address, region) in map.iter().flat_map(|region| region.addresses.iter().map(move |a| (a, region))) {
        if let Some(other) = owners.insert(address, &region.id) {
            let message = format!("{address} is an address of both {other} and {}", region.id);
            report.fault(Span::START, message, "give each region addresses of its own".to_owned());
        }
    }
    report.take().0
}

/// Addresses of one region: what fits a DNS answer.
const MAX_ADDRESSES: usize = 16;

/// Pairs of regions.
const MAX_ROUND_TRIPS: usize = MAX_REGIONS * (MAX_REGIONS - 1) / 2;

/// Beyond this, an election would never end.
const MAX_RTT: Duration = Duration::from_secs(2);

/// Prefixes of clients.
const MAX_NETWORKS: usize = 20_000;
