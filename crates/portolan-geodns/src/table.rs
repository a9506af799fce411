//! Decides what a name is answered with.
//!
//! Rule of choice among the regions of a record: the nearest that serves; where none serves, the nearest that is drained
//! but alive; where none lives, all that are not drained, for an answer that may be wrong beats none. So health alone
//! never empties an answer (the AWS outage of 20 October 2025 began with an empty record). A name without an address of
//! the asked family gets no data, not another region: clients would cross an ocean to use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use portolan_config::{RegionMap, Snapshot, ZoneRecord};
use portolan_model::RegionId;

use crate::{
    answer::{Answer, ClientSubnet, Query, Rcode, Soa, SoaRole, qtype},
    networks::{Located, Networks},
    states::{RegionState, RegionStates},
};

/// Most addresses in one answer, so that it fits 1232 bytes (DNS Flag Day 2020) with room for options.
pub const MAX_ADDRESSES: usize = 8;
/// How long resolvers may cache that a name or type does not exist.
const NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// TTL of name server records: they change with the set of regions, which is fixed.
const NS_TTL: Duration = Duration::from_secs(3600);
/// Label under which each zone's name servers live: `eu-west.ns.example.test`.
const NS_LABEL: &str = "ns";

/// All zones of one revision with the map of client networks.
#[derive(Clone, Debug)]
pub struct Table {
    zones: BTreeMap<String, Zone>,
    networks: Networks,
    addresses: BTreeMap<RegionId, Vec<IpAddr>>,
    serial: u32,
}

#[derive(Clone, Debug, Default)]
struct Zone {
    /// Records by full name.
    records: BTreeMap<String, ZoneRecord>,
    /// Name servers by full name.
    servers: BTreeMap<String, RegionId>,
    /// Names that exist only because one below them does (RFC 8020).
    inner: BTreeSet<String>,
}

impl Table {
    /// Arranges the zones of a snapshot and the client networks of a region map.
    pub fn compile(snapshot: &Snapshot, regions: &RegionMap) -> Self {
        let zones = snapshot.zones.values().map(|zone| (zone.name.clone(), Zone::compile(zone, regions))).collect();
        let addresses = regions.iter().map(|region| (region.id.clone(), region.addresses.clone())).collect();
        Self { zones, networks: Networks::compile(regions), addresses, serial: 1 }
    }

    /// Sets the serial number that SOA records carry; the revision is the natural one.
    pub fn with_serial(self, serial: u32) -> Self {
        Self { serial, ..self }
    }

    /// Answers a query. One map lookup per label of the name and one step per known bit of the client's address.
    pub fn answer(&self, query: &Query<'_>, states: &RegionStates) -> Answer {
        let Some((zone_name, zone)) = self.zone_of(query.name) else {
            return Answer { rcode: Rcode::Refused, authoritative: false, ..self.empty(query) };
        };
        let mut answer = self.empty(query);
        if let Some(record) = zone.records.get(query.name) {
            self.answer_record(record, query, states, &mut answer);
        } else if let Some(region) = zone.servers.get(query.name) {
            answer.ttl = NS_TTL;
            answer.addresses = self.addresses_of(region, query.qtype).collect();
        } else if query.name != zone_name && !zone.inner.contains(query.name) {
            answer.rcode = Rcode::NxDomain;
        }
        if query.name == zone_name && query.qtype == qtype::NS {
            answer.ttl = NS_TTL;
            answer.ns = zone.servers.keys().cloned().collect();
        }
        let asked_soa = match query.qtype {
            qtype::SOA => true,
            // Any subset of what there is will do, but not nothing (RFC 8482 §4.1).
            qtype::ANY => answer.addresses.is_empty(),
            _ => false,
        };
        if asked_soa && query.name == zone_name {
            answer.soa = Some(self.soa(zone_name, zone, SoaRole::Answer));
        } else if answer.addresses.is_empty() && answer.ns.is_empty() {
            answer.soa = Some(self.soa(zone_name, zone, SoaRole::Denial));
        }
        answer
    }

    /// Names of all zones, sorted.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.keys().map(String::as_str)
    }

    fn answer_record(&self, record: &ZoneRecord, query: &Query<'_>, states: &RegionStates, answer: &mut Answer) {
        answer.ttl = record.ttl;
        if !matches!(query.qtype, qtype::A | qtype::AAAA | qtype::ANY) {
            return;
        }
        let known = if query.client.prefix == 0 { u8::MAX } else { query.client.prefix };
        let located = self.networks.locate(query.client.address, known);
        answer.ecs_scope = scope(record, &query.client, located);
        let order = located.order.map_or(&[][..], |order| self.networks.order(order));
        let chosen = choose(record, order, states);
        answer.region = chosen.first().map(|region| (*region).clone());
        let all = chosen.into_iter().flat_map(|region| self.addresses_of(region, query.qtype));
        answer.addresses = all.take(MAX_ADDRESSES).collect();
    }

    fn addresses_of(&self, region: &RegionId, wanted: u16) -> impl Iterator<Item = IpAddr> {
        let addresses = self.addresses.get(region).into_iter().flatten().copied();
        addresses.filter(move |address| match wanted {
            qtype::A => address.is_ipv4(),
            qtype::AAAA => address.is_ipv6(),
            wanted => wanted == qtype::ANY,
        })
    }

    /// The zone with the longest name at or above `name`.
    fn zone_of(&self, name: &str) -> Option<(&str, &Zone)> {
        let above = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
        let mut names = std::iter::once(name).chain(above);
        names.find_map(|name| self.zones.get_key_value(name)).map(|(name, zone)| (name.as_str(), zone))
    }

    fn empty(&self, query: &Query<'_>) -> Answer {
        Answer {
            rcode: Rcode::NoError,
            authoritative: true,
            addresses: Vec::new(),
            ns: Vec::new(),
            soa: None,
            ttl: NEGATIVE_TTL,
            // The same for every client (RFC 7871 §7.2.1).
            ecs_scope: query.client.from_ecs.then_some(0),
            region: None,
        }
    }

    fn soa(&self, zone_name: &str, zone: &Zone, role: SoaRole) -> Soa {
        Soa {
            role,
            zone: zone_name.to_owned(),
            mname: zone.servers.keys().next().cloned().unwrap_or_else(|| format!("{NS_LABEL}.{zone_name}")),
            rname: format!("hostmaster.{zone_name}"),
            serial: self.serial,
            refresh: Duration::from_secs(7200),
            retry: Duration::from_secs(900),
            expire: Duration::from_secs(1_209_600),
            minimum: NEGATIVE_TTL,
        }
    }
}

impl Zone {
    fn compile(zone: &portolan_config::Zone, regions: &RegionMap) -> Self {
        let mut compiled = Self::default();
        for (label, record) in &zone.records {
            let name = if label == "@" { zone.name.clone() } else { format!("{label}.{}", zone.name) };
            compiled.records.insert(name, record.clone());
        }
        for id in regions.ids() {
            compiled.servers.insert(format!("{id}.{NS_LABEL}.{}", zone.name), id.clone());
        }
        let leaves: Vec<String> = compiled.records.keys().chain(compiled.servers.keys()).cloned().collect();
        for leaf in leaves {
            let below = leaf.strip_suffix(zone.name.as_str()).unwrap_or_default();
            let dots = below.trim_end_matches('.').match_indices('.').map(|(dot, _)| dot);
            compiled.inner.extend(dots.map(|dot| leaf[dot + 1..].to_owned()));
        }
        compiled
    }
}

/// The regions to name, never empty: a record has at least one region.
fn choose<'a>(record: &'a ZoneRecord, order: &[RegionId], states: &RegionStates) -> Vec<&'a RegionId> {
    // Regions that the order does not know, or all without an order, follow by name.
    let rank = |region: &RegionId| order.iter().position(|other| other == region).unwrap_or(order.len());
    let mut regions: Vec<&RegionId> = record.regions.iter().collect();
    regions.sort_by_key(|region| rank(region));
    for wanted in [RegionState::Serving, RegionState::Draining] {
        if let Some(region) = regions.iter().find(|region| states.get(region) == wanted) {
            return vec![region];
        }
    }
    let down: Vec<&RegionId> = regions.iter().copied().filter(|id| states.get(id) == RegionState::Down).collect();
    if down.is_empty() { regions } else { down }
}

/// How much of the client's address decided; 0 where no address could have changed the answer.
fn scope(record: &ZoneRecord, client: &ClientSubnet, located: Located) -> Option<u8> {
    let fixed = record.regions.len() == 1 || client.prefix == 0;
    client.from_ecs.then_some(if fixed { 0 } else { located.scope })
}
