//! What one node needs to know before it has met any other: its name, addresses, certificates and peers.

use std::{collections::BTreeMap, net::SocketAddr};

use portolan_model::{Name, NodeName, RegionId};

use crate::{Faults, SourceFile, fault::Report, node_decode, syntax};

/// The file that `portolan run` is started with. Paths are as written; the caller resolves them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFile {
    /// This node, as its certificate names it.
    pub node: NodeName,
    /// The region it serves.
    pub region: RegionId,
    /// The cluster it belongs to: the trust domain of certificates.
    pub cluster: Name,
    /// Directory for the log, the marks and the snapshot.
    pub data: String,
    /// Directory with the region files.
    pub regions: String,
    /// Where it listens.
    pub listen: Listen,
    /// Certificates shown to clients, chosen by SNI; the first is the default. Never empty.
    pub server_certificates: Vec<CertificateFiles>,
    /// Who it is towards other nodes.
    pub identity: IdentityFiles,
    /// The other nodes.
    pub peers: BTreeMap<NodeName, Peer>,
    /// The nodes that found the cluster together; each is this node or a peer.
    pub bootstrap: Vec<NodeName>,
    /// Threads that serve requests. Default 1.
    pub workers: usize,
    /// Where finished requests are written. Default standard output.
    pub access_log: AccessLog,
    /// OTLP/gRPC collector that spans are sent to; `None` sends none.
    pub otlp: Option<String>,
    /// File with a secret that all nodes of the cluster share: it keeps clients from choosing keys of limits that
    /// collide. `None` takes the CA, which clients may know.
    pub limits_key: Option<String>,
}

impl NodeFile {
    /// Reads a node file, or returns all its faults at once.
    pub fn parse(file: &SourceFile) -> Result<Self, Faults> {
        let mut report = Report::new(file);
        let node = syntax::parse(&mut report).and_then(|root| node_decode::decode(&root, &mut report));
        report.finish(node)
    }
}

/// Addresses a node listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// TLS with HTTP/1.1 and HTTP/2 over TCP, HTTP/3 over UDP.
    pub https: SocketAddr,
    /// Clear text HTTP/1.1, for a balancer in front that ends TLS itself; `None` listens nowhere.
    pub http: Option<SocketAddr>,
    /// DNS over UDP and TCP.
    pub dns: SocketAddr,
    /// Operators, with client certificates.
    pub admin: SocketAddr,
    /// Other nodes, QUIC.
    pub mesh: SocketAddr,
}

/// Two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Chain, leaf first.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

/// Three PEM files that prove who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Authority of nodes and operators.
    pub ca: String,
    /// Chain of this node, leaf first.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The region it serves.
    pub region: RegionId,
    /// Its mesh address.
    pub address: SocketAddr,
}

/// Where finished requests are written, one JSON object per line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output.
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file.
    File(String),
}
