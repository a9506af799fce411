//! The gateway as the data path sees it: plain values whose references are known to hold. Never changed in place; a new
//! revision is a new [`Snapshot`].

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use portolan_model::{ByteSize, Name, Rate, RegionId};

use crate::{Bundle, Faults, Lender, Limit, RegionMap, gateway};

/// One accepted document. Every name in it resolves within it. The default one serves nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What requests are forwarded to.
    pub services: BTreeMap<Name, Arc<Service>>,
    /// Ways to know who asks.
    pub auth: BTreeMap<Name, Arc<JwtAuth>>,
    /// Who lends parts of quotas.
    pub lenders: BTreeMap<Name, Arc<Lender>>,
    /// Limits that routes refer to.
    pub limits: BTreeMap<Name, Arc<Limit>>,
    /// Which request goes where, and under which conditions.
    pub routes: BTreeMap<Name, Arc<Route>>,
    /// DNS zones answered with region addresses, by zone name in lower case without a trailing dot.
    pub zones: BTreeMap<String, Zone>,
    /// What a listener takes before any route is known.
    pub listener: Listener,
}

impl Snapshot {
    /// Reads a bundle into a snapshot, or returns all faults of the document at once.
    pub fn parse(bundle: &Bundle, regions: &RegionMap) -> Result<Self, Faults> {
        gateway::parse(bundle, regions)
    }

    /// Who lends out a part of a limit of this document.
    pub fn lender_of(&self, limit: &Limit) -> Option<&Lender> {
        self.lenders.get(limit.lender.as_ref()?).map(|lender| &**lender)
    }
}

/// A set of equal endpoints per region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name in the document.
    pub name: Name,
    /// Endpoints by region, in the order written; at least one region, and no region without endpoints.
    pub endpoints: BTreeMap<RegionId, Vec<EndpointAddress>>,
    /// Longest wait for a connection. Default 1 s: several round trips to the farthest region.
    pub connect_timeout: Duration,
    /// How endpoints are probed.
    pub health: HealthCheck,
}

/// Where an endpoint listens, in clear text HTTP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointAddress {
    /// IP address (IPv6 without brackets) or host name.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "http://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "http://{}:{}", self.host, self.port)
        }
    }
}

/// An active probe of every endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path of a GET that must answer 2xx; `None` means that a TCP connection suffices.
    pub path: Option<String>,
    /// Time between probes. Default 2 s.
    pub interval: Duration,
    /// Longest wait for an answer. Default 1 s.
    pub timeout: Duration,
    /// Failures in a row that make an endpoint unhealthy. Default 3.
    pub fall: u32,
    /// Successes in a row that make it healthy again. Default 2.
    pub rise: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self { path: None, interval: Duration::from_secs(2), timeout: Duration::from_secs(1), fall: 3, rise: 2 }
    }
}

/// Bearer tokens of one issuer (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtAuth {
    /// Its name in the document.
    pub name: Name,
    /// Required `iss`.
    pub issuer: String,
    /// One of these must be in `aud`; never empty.
    pub audience: Vec<String>,
    /// The JWKS (RFC 7517 §5) as text; a JSON object with at least one key.
    pub jwks: Arc<str>,
    /// The claim that names the user. Default `sub`.
    pub user_claim: String,
    /// Clock difference allowed for `exp` and `nbf`. Default 60 s.
    pub leeway: Duration,
}

/// Which hosts a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMatch {
    /// This host, in lower case without a port.
    Exact(String),
    /// Any host that ends in `.` and this suffix: `*.example.test` is kept as `example.test`.
    Wildcard(String),
    /// Every host.
    Any,
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// Which paths a route takes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// This path alone.
    Exact(String),
    /// This path and everything below it, by whole segments: `/orders/**` is kept as `/orders` and takes `/orders`,
    /// `/orders/` and `/orders/1`, but not `/orders2`. `/**` is kept as `/` and takes every path.
    Prefix(String),
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(path) if path == "/" => f.write_str("/**"),
            Self::Prefix(path) => write!(f, "{path}/**"),
        }
    }
}

/// Requests of one kind and what is done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name in the document.
    pub name: Name,
    /// Hosts it takes.
    pub host: HostMatch,
    /// Paths it takes.
    pub path: PathMatch,
    /// Methods it takes, in upper case; empty means every method.
    pub methods: Vec<String>,
    /// Who may ask; `None` means anybody.
    pub auth: Option<Name>,
    /// Scopes a token must carry, all of them; empty without `auth`.
    pub scopes: Vec<String>,
    /// Limits charged, all or none.
    pub limits: Vec<Name>,
    /// Where the request goes.
    pub service: Name,
    /// Time for the whole exchange up to the response's head, retries included. Default 15 s.
    pub timeout: Duration,
    /// Largest request body; `None` means the listener's.
    pub max_body: Option<ByteSize>,
}

/// Host names that are answered with the addresses of regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Lower case, no trailing dot.
    pub name: String,
    /// Records by label relative to the zone; `@` is the zone itself.
    pub records: BTreeMap<String, ZoneRecord>,
}

/// The regions that serve one host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneRecord {
    /// `all` is expanded; sorted, never empty.
    pub regions: Vec<RegionId>,
    /// How long a resolver may keep an answer. Default 30 s.
    pub ttl: Duration,
}

/// What a listener accepts from anybody, before a route is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Requests per client address and node, checked before any costly step. Default 1000/s: many users may share one
    /// address, and a flood is still bounded.
    pub client_limit: Rate,
    /// All header fields of a request together. Default 60 KiB.
    pub max_header_bytes: ByteSize,
    /// Header fields of a request. Default 100.
    pub max_headers: usize,
    /// Largest request body where a route says nothing. Default 1 MiB.
    pub max_body: ByteSize,
    /// Longest time for a request's head to arrive. Default 10 s.
    pub header_timeout: Duration,
    /// Longest TLS or QUIC handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a connection may stay open without a request. Default 60 s.
    pub idle_timeout: Duration,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            client_limit: Rate { count: 1000, per: Duration::from_secs(1) },
            max_header_bytes: ByteSize(60 << 10),
            max_headers: 100,
            max_body: ByteSize(1 << 20),
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        }
    }
}
