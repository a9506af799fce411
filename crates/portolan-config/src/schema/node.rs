//! The node file for editors.
#![expect(dead_code, reason = "only the schema of these types is used")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::value::{Name, SocketAddress, Version};

/// What one node needs to know before it has met any other.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct NodeFile {
    /// Version of the format.
    version: Version,
    /// This node, as its certificate names it.
    node: Name,
    /// The region it serves.
    region: Name,
    /// The cluster it belongs to: the trust domain of certificates.
    cluster: Name,
    /// Directory for the log, the marks and the snapshot.
    data: String,
    /// Directory with the region files.
    regions: String,
    /// Where it listens.
    listen: Listen,
    /// Certificates shown to clients, chosen by SNI; the first is the default.
    server_certificates: Vec<ServerCertificate>,
    /// Who it is towards other nodes.
    identity: Identity,
    /// The other nodes, by name.
    peers: Option<BTreeMap<String, Peer>>,
    /// The nodes that found the cluster together, the same on each.
    bootstrap: Vec<Name>,
    /// Threads that serve requests, 1 to 256. Default 1.
    workers: Option<u32>,
    /// Where finished requests are written. Default `stdout`.
    access_log: Option<AccessLog>,
    /// OTLP/gRPC collector that spans are sent to. Default none.
    otlp: Option<String>,
    /// File with a secret that all nodes of the cluster share: it keeps clients from choosing keys of limits that
    /// collide. Default: the CA, which clients may know.
    limits_key: Option<String>,
}

/// Addresses a node listens on.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Listen {
    /// TLS with HTTP/1.1 and HTTP/2 over TCP, HTTP/3 over UDP.
    https: SocketAddress,
    /// Clear text HTTP/1.1, for a balancer in front that ends TLS itself. Default nowhere.
    http: Option<SocketAddress>,
    /// DNS over UDP and TCP.
    dns: SocketAddress,
    /// Operators, with client certificates.
    admin: SocketAddress,
    /// Other nodes, QUIC.
    mesh: SocketAddress,
}

/// A certificate shown to clients.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct ServerCertificate {
    /// PEM file with the chain, leaf first.
    certificate: String,
    /// PEM file with the private key.
    key: String,
}

/// Who a node is towards other nodes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Identity {
    /// PEM file with the authority of nodes and operators.
    ca: String,
    /// PEM file with the chain of this node, leaf first.
    certificate: String,
    /// PEM file with the private key.
    key: String,
}

/// Another node.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Peer {
    /// The region it serves.
    region: Name,
    /// Its mesh address.
    address: SocketAddress,
}

/// Where finished requests are written.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum AccessLog {
    Word(AccessLogWord),
    File(AccessLogFile),
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
enum AccessLogWord {
    Stdout,
    Off,
}

/// An access log in a file.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct AccessLogFile {
    /// Its path.
    file: String,
}
