//! The gateway document for editors.
#![expect(dead_code, reason = "only the schema of these types is used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::{
    limit::{Lender, Limit},
    value::{ByteSize, Duration, Endpoint, HostPattern, Name, PathPattern, Rate, Regions, Version},
};

/// A Portolan gateway: what requests it takes, under which conditions, and where they go.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Gateway {
    /// Version of the format.
    version: Version,
    /// Bounds on what anybody may send before a route is known.
    listener: Option<Listener>,
    /// What requests are forwarded to, by name.
    services: Option<BTreeMap<String, Service>>,
    /// Ways to know who asks, by name.
    auth: Option<BTreeMap<String, Auth>>,
    /// Who lends parts of limits in the background, by name.
    lenders: Option<BTreeMap<String, Lender>>,
    /// Limits that hold over all regions together, by name.
    limits: Option<BTreeMap<String, Limit>>,
    /// Which request goes where, by name.
    routes: Option<BTreeMap<String, Route>>,
    /// DNS zones: records by name relative to the zone, `@` for the zone itself.
    dns: Option<BTreeMap<String, BTreeMap<String, Record>>>,
}

/// Bounds on what anybody may send before a route is known.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Listener {
    /// Requests per client address and node, checked before any costly step. Default 1000/s.
    client_limit: Option<Rate>,
    /// All header fields of a request together. Default 60KiB.
    max_header_bytes: Option<ByteSize>,
    /// Header fields of a request, 1 to 1000. Default 100.
    max_headers: Option<u32>,
    /// Largest request body where a route says nothing. Default 1MiB.
    max_body: Option<ByteSize>,
    /// Longest time for a request's head to arrive. Default 10s.
    header_timeout: Option<Duration>,
    /// Longest TLS or QUIC handshake. Default 10s.
    handshake_timeout: Option<Duration>,
    /// How long a connection may stay open without a request. Default 60s.
    idle_timeout: Option<Duration>,
}

/// A set of equal endpoints per region.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Service {
    /// Endpoints by region.
    endpoints: BTreeMap<String, Vec<Endpoint>>,
    /// Longest wait for a connection, 1ms to 60s. Default 1s.
    connect_timeout: Option<Duration>,
    /// How endpoints are probed. Default: a TCP connection every 2s.
    health: Option<HealthCheck>,
}

/// An active probe of every endpoint of a service.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct HealthCheck {
    /// Path of a GET that must answer 2xx. Default: a TCP connection suffices.
    path: Option<String>,
    /// Time between probes. Default 2s.
    interval: Option<Duration>,
    /// Longest wait for an answer. Default 1s.
    timeout: Option<Duration>,
    /// Failures in a row that make an endpoint unhealthy, 1 to 100. Default 3.
    fall: Option<u32>,
    /// Successes in a row that make it healthy again, 1 to 100. Default 2.
    rise: Option<u32>,
}

/// A way to know who asks.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Auth {
    /// Bearer tokens of one issuer (RFC 7519).
    jwt: Jwt,
}

/// Bearer tokens of one issuer.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Jwt {
    /// Required `iss`.
    issuer: String,
    /// File with the JSON Web Key Set, by its path from this document.
    jwks_file: String,
    /// One of these must be in `aud`.
    audience: Vec<String>,
    /// The claim that names the user. Default `sub`.
    user_claim: Option<String>,
    /// Clock difference allowed for `exp` and `nbf`, up to 10min. Default 60s.
    leeway: Option<Duration>,
}

/// Requests of one kind and what is done with them.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Route {
    /// Which requests it takes.
    r#match: Match,
    /// Who may ask: a name under `auth`. Default: anybody.
    auth: Option<Name>,
    /// Scopes a token must carry, all of them.
    scopes: Option<Vec<String>>,
    /// Limits charged, all or none: names under `limits`.
    limits: Option<Vec<Name>>,
    /// Where the request goes: a name under `services`.
    service: Name,
    /// Time for the whole exchange up to the response's head, retries included, 1ms to 1h. Default 15s.
    timeout: Option<Duration>,
    /// Largest request body. Default: the listener's.
    max_body: Option<ByteSize>,
}

/// Which requests a route takes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Match {
    /// Host without port. Default: every host.
    host: Option<HostPattern>,
    /// Path; `/**` at its end takes everything below, by whole segments.
    path: PathPattern,
    /// Methods. Default: every method.
    methods: Option<Vec<Method>>,
}

/// Methods that a route can name.
#[derive(JsonSchema)]
#[schemars(rename_all = "UPPERCASE")]
enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
}

/// The regions that serve one host name.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Record {
    /// `all`, or a list of regions.
    regions: Regions,
    /// How long a resolver may keep an answer, 1s to 1d. Default 30s.
    ttl: Option<Duration>,
}
