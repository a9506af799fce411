//! `services`: endpoints by region and how they are probed.

use std::{collections::BTreeMap, net::Ipv6Addr, sync::Arc, time::Duration};

use portolan_model::{Name, RegionId};

use super::Scope;
use crate::{
    EndpointAddress, HealthCheck, Service,
    decode::{self, Fields, Shape, duration, entry_name, named, string, whole},
    fault::Report,
    tree::{Entry, Node},
};

/// A service's keys.
pub(crate) const SERVICE: Shape = Shape { what: "a service", keys: &["endpoints", "connect_timeout", "health"] };

/// A health check's keys.
pub(crate) const HEALTH: Shape =
    Shape { what: "a health check", keys: &["path", "interval", "timeout", "fall", "rise"] };

pub(super) fn decode(entries: &[Entry], scope: &Scope<'_>, report: &mut Report<'_>) -> BTreeMap<Name, Arc<Service>> {
    let services = entries.iter().filter_map(|entry| service(entry, scope, report));
    services.map(|service| (service.name.clone(), Arc::new(service))).collect()
}

fn service(entry: &Entry, scope: &Scope<'_>, report: &mut Report<'_>) -> Option<Service> {
    let name = entry_name(entry, report);
    let fields = Fields::open(&entry.node, &SERVICE, report)?;
    let example = "{ REGION: [http://127.0.0.1:9101] }";
    let endpoints =
        fields.require("endpoints", example, report).and_then(|node| endpoints_by_region(node, scope, report));
    let connect_timeout = fields.optional("connect_timeout", Duration::from_secs(1), report, |node, report| {
        duration(node, Duration::from_millis(1)..=Duration::from_secs(60), report)
    });
    let health = fields.optional("health", HealthCheck::default(), report, health);
    Some(Service { name: name?, endpoints: endpoints?, connect_timeout, health })
}

fn endpoints_by_region(
    node: &Node,
    scope: &Scope<'_>,
    report: &mut Report<'_>,
) -> Option<BTreeMap<RegionId, Vec<EndpointAddress>>> {
    let entries = named(node, "endpoints: { REGION: [http://127.0.0.1:9101] }", scope.regions.ids().len(), report);
    if entries.is_empty() {
        let remedy = "write `endpoints: { REGION: [http://127.0.0.1:9101] }`".to_owned();
        report.fault(node.named_at, "a service without endpoints cannot answer", remedy);
        return None;
    }
    let mut by_region = BTreeMap::new();
    for entry in entries {
        let region = scope.region(&entry.key, entry.key_at, report);
        let addresses = decode::list(&entry.node, MAX_ENDPOINTS, report, endpoint).unwrap_or_default();
        if decode::is_empty_list(&entry.node) {
            let remedy = "list an endpoint, or remove the region".to_owned();
            report.fault(entry.key_at, format!("region `{}` has no endpoint", entry.key), remedy);
        }
        if let Some(region) = region {
            by_region.insert(region, addresses);
        }
    }
    Some(by_region)
}

fn endpoint(node: &Node, report: &mut Report<'_>) -> Option<EndpointAddress> {
    let text = string(node, report)?;
    let example = "write for example http://127.0.0.1:9101";
    let mut fault = |why: &str, remedy: &str| {
        report.fault(node.at, format!("{} {why}", node.quoted()), remedy.to_owned());
        None
    };
    if text.starts_with("https://") {
        return fault("is not supported yet", "use an http:// endpoint");
    }
    let Some(authority) = text.strip_prefix("http://") else {
        return fault("is not an endpoint: `http://` is missing", example);
    };
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.contains(['/', '?', '#', '@']) {
        return fault("is not an endpoint: only host and port are taken", example);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.starts_with('[') => (host, Some(port)),
        _ => (authority, None),
    };
    let port = match port.map_or(Ok(80), str::parse) {
        Ok(port) if port > 0 => port,
        _ => return fault("is not an endpoint: the port is not between 1 and 65535", example),
    };
    match host.strip_prefix('[').map_or(Some(host), |rest| rest.strip_suffix(']')) {
        Some(inner) if host.starts_with('[') && inner.parse::<Ipv6Addr>().is_ok() => {
            Some(EndpointAddress { host: inner.to_owned(), port })
        }
        Some(name) if !host.starts_with('[') && is_host(name) => Some(EndpointAddress { host: name.to_owned(), port }),
        _ => fault("is not an endpoint: the host is malformed", example),
    }
}

/// IPv4 addresses and host names; underscores are taken because container platforms hand such names out.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn health(node: &Node, report: &mut Report<'_>) -> Option<HealthCheck> {
    let fields = Fields::open(node, &HEALTH, report)?;
    let default = HealthCheck::default();
    let spell = Duration::from_millis(50)..=Duration::from_secs(300);
    let path = fields.get("path").and_then(|node| probe_path(node, report));
    let times = |node: &Node, report: &mut Report<'_>| whole(node, 1..=100, report).and_then(|n| n.try_into().ok());
    Some(HealthCheck {
        path,
        interval: fields.optional("interval", default.interval, report, |n, r| duration(n, spell.clone(), r)),
        timeout: fields.optional("timeout", default.timeout, report, |n, r| duration(n, spell.clone(), r)),
        fall: fields.optional("fall", default.fall, report, times),
        rise: fields.optional("rise", default.rise, report, times),
    })
}

fn probe_path(node: &Node, report: &mut Report<'_>) -> Option<String> {
    let path = string(node, report)?;
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Some(path);
    }
    let remedy = "write a path such as /healthz".to_owned();
    report.fault(node.at, format!("{} is not a path", node.quoted()), remedy);
    None
}

/// Endpoints of one service in one region.
const MAX_ENDPOINTS: usize = 256;
